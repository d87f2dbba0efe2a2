"""The permutation file: how it is written, read, and bound to a checkpoint that it fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.errors import PermutationError, SpecError
from rebasin_cli.files.names.name_views import bind_seen
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.saved.stored_model import tensors_entry
from rebasin_cli.files.write import write_tensors_to
from rebasin_cli.json_text import read_json
from rebasin_cli.permutation import Permutation, Permutations
from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import infos
from rebasin_cli.tensors.numbers import is_floating

SPEC, SIZES, CONFIG = "rebasin.spec", "rebasin.sizes", "rebasin.config"
SYMMETRY = "rebasin.symmetry"  # of a file that has matrices too

PASSED = "rebasin.untouched"  # a JSON object: names of tensors, and their shapes


@dataclass(frozen=True)
class Saved:
    """A permutation file, bound to a checkpoint that it fits.

    config: the config.json that sizes came from. passed: the tensors that its spec did not name
    when it was found, and that could stay.
    """

    bound: BoundSpec
    permutations: Mapping[str, Permutation]
    config: Mapping[str, Any]
    passed: frozenset[str]

    @property
    def moving(self) -> frozenset[str]:
        """The roots of the families that it moves."""
        moved = (name for name, found in self.permutations.items() if found.moved)
        return frozenset(self.bound.groups[name].root for name in moved)


def read_permutations(source: Path, checkpoint: Checkpoint) -> Saved:
    """Return a permutation file bound to a checkpoint.

    Raises PermutationError if it is not such a file, or not one for this checkpoint.
    """
    with open_checkpoint(source) as file:
        if SYMMETRY in file.metadata:
            raise PermutationError(
                "its maps rotate units, which is more than permutations do",
                where=str(source),
                hint="rebasin apply takes it",
            )
        bound = bind_saved(file, source, checkpoint)
        expected = {group.name: group.shape for group in bound.groups.values()}
        check_shapes(file, source, checkpoint, expected)
        return Saved(
            bound=bound,
            permutations={g.name: permutation_in(file, source, g) for g in bound.groups.values()},
            config=object_in(file, source, CONFIG),
            passed=frozenset(object_in(file, source, PASSED)),
        )


def check_shapes(
    file: Checkpoint,
    source: Path,
    checkpoint: Checkpoint,
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise PermutationError if the entries of a file are not those of the groups, by name."""
    found = {name: file.info(name).shape for name in file.names()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            detail = f"group {name!r} is {found.get(name)}, expected {expected.get(name)}"
            raise _unfit(source, checkpoint, detail)


def bind_saved(file: Checkpoint, source: Path, checkpoint: Checkpoint) -> BoundSpec:
    """Return the spec in a file, bound to a checkpoint. Raises PermutationError if it is none."""
    if SPEC not in file.metadata:
        raise PermutationError(
            "this is not a permutation file",
            where=str(source),
            hint="`rebasin align --save-permutation FILE` writes one, or rb.save in Python",
        )
    sizes = object_in(file, source, SIZES)
    if not all(isinstance(size, int) for size in sizes.values()):
        raise _corrupt(source, SIZES)
    try:
        return bind_seen(
            parse(file.metadata[SPEC], source=f"{source} (spec)"),
            infos(checkpoint),
            config=object_in(file, source, CONFIG),
            sizes=sizes,
            ties=checkpoint.ties,
        )
    except SpecError as error:
        raise _unfit(source, checkpoint, error.problems[0].what) from error


def object_in(file: Checkpoint, source: Path, key: str) -> Mapping[str, Any]:
    """Return a JSON object of the metadata; empty if it is not there."""
    try:
        value = read_json(file.metadata.get(key, "{}"))
    except ValueError as error:
        raise _corrupt(source, key) from error
    if not isinstance(value, dict):
        raise _corrupt(source, key)
    return value


def permutation_in(file: Checkpoint, source: Path, group: BoundGroup) -> Permutation:
    """Return the permutation of a group. Raises PermutationError if it is none."""
    index = file.load(group.name)
    try:
        if is_floating(index.dtype):
            raise PermutationError("its values are not integers")
        found = Permutation(index.long(), group.parents)
        if group.fixed and found.moved:
            raise PermutationError("it is fixed by the spec, but this file moves it")
        return found
    except PermutationError as error:
        what = f"group {group.name!r}: {error.problems[0].what}"
        raise PermutationError(what, where=str(source)) from error


def _corrupt(source: Path, key: str) -> PermutationError:
    return PermutationError(f"its metadata entry {key!r} is damaged", where=str(source))


def _unfit(source: Path, checkpoint: Checkpoint, detail: str) -> PermutationError:
    return PermutationError(
        f"the permutation does not fit {checkpoint.path}",
        where=str(source),
        detail=detail,
        hint="it was found for a checkpoint with other tensors",
    )


def save_permutations(
    place: OutputPlace | None,
    permutations: Permutations,
    bound: BoundSpec,
    models: tuple[Checkpoint, Checkpoint],
    sizes: Mapping[str, int],
) -> Written | None:
    """Write the permutation file of a reference and a model, if a place is planned for one.

    The sizes that are not in the headers (config.json, --set) come along: a later `apply`
    may meet the bare weights alone. One int32 tensor for each group; None if an old file stays.
    """
    if place is None or place.skip:
        return None
    tensors = {name: found.index.int().cpu() for name, found in permutations.items()}
    return write_tensors_to(place, tensors, origin_of(bound, models, sizes))


def origin_of(
    bound: BoundSpec, models: tuple[Checkpoint, Checkpoint], sizes: Mapping[str, int]
) -> dict[str, str]:
    """Return what a file says of the spec and the models that it was found for."""
    reference, model = models
    untouched = bound.untouched
    passed = {n: model.info(n).shape for n in untouched if n in model.names()}
    groups = {
        g.name: {"size": g.size, "per": g.parents, "fixed": g.fixed} for g in bound.groups.values()
    }
    return {
        SPEC: dump(bound.spec),
        SIZES: json.dumps(dict(sizes), sort_keys=True),
        PASSED: json.dumps(passed, sort_keys=True),
        CONFIG: json.dumps(dict(model.config), sort_keys=True),
        "rebasin.groups": json.dumps(groups, sort_keys=True),
        **tensors_entry(model),
        "rebasin.reference": reference.sha256(),
        "rebasin.model": model.sha256(),
    }
