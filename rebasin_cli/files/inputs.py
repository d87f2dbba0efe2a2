"""Opening the models and checking, from their headers, that they belong together."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.opened_files import Reading
from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.renamed import substitute_names
from rebasin_cli.checkpoint.torch_format.container import PartError
from rebasin_cli.errors import (
    CheckpointError,
    DetailWarning,
    MachineError,
    Problem,
    RebasinError,
    RebasinWarning,
    UsageError,
    suggest_tensor,
)
from rebasin_cli.files.coded import told_of_codes
from rebasin_cli.files.configs import check_configs
from rebasin_cli.files.difference import (
    SHOWN,
    Difference,
    difference_of,
    label_names,
    names_hint,
    shape_text,
)
from rebasin_cli.files.names.common_names import agree_on_names
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.tensors import dtype_name, infos
from rebasin_cli.wording import listing, plural


def open_models(
    paths: Sequence[Path], selection: Selection, *, adapters: bool = False
) -> list[Checkpoint]:
    """Open every model, the names of all brought to those of the first.

    adapters: folders of adapters are opened too. Raises one error with the problems of all that
    cannot be opened.
    """
    numbers = range(1, len(paths) + 1)
    readings = [replace(reading_of(selection, n), adapters=adapters) for n in numbers]
    opened, failures = _opened(paths, readings)
    parts = [k for k, error in failures.items() if isinstance(error, PartError)]
    if len(parts) < len(paths):
        # --key counts where it names something; the other files are looked through as usual.
        whole = [replace(readings[k], key=None) for k in parts]
        others, more = _opened([paths[k] for k in parts], whole)
        opened |= {parts[k]: model for k, model in others.items()}
        failures = {k: e for k, e in failures.items() if k not in parts}
        failures |= {parts[k]: error for k, error in more.items()}
    if failures:
        for model in opened.values():
            model.close()
        raise _together([failures[k] for k in sorted(failures)])
    models = [opened[k] for k in sorted(opened)]
    _tell([models[k] for k in parts], models, selection)
    return agreeing(models, selection)


def open_by_itself(path: Path, selection: Selection, *, adapters: bool = False) -> Checkpoint:
    """Open a model that need not be like others: --key counts if it has such a part."""
    plain = Selection(ignore_classes=selection.ignore_classes, dequantize=selection.dequantize)
    try:
        return open_models([path], replace(plain, key=selection.key), adapters=adapters)[0]
    except PartError:
        return open_models([path], plain, adapters=adapters)[0]


def agreeing(models: Sequence[Checkpoint], selection: Selection) -> list[Checkpoint]:
    """Return open models, the names of all brought to those of the first.

    Raises UsageError for a rename that changes no name, and a glob that matches none.
    """
    _check_renames(models, selection)
    found = agree_on_names(models)
    _check_globs(found, selection)
    return found


def reading_of(selection: Selection, model: int) -> Reading:
    """Return how the model with a number, from 1, is read."""
    renames = tuple((r.old, r.new) for r in selection.renames if r.model in (None, model))
    return Reading(selection.part, renames, selection.ignore_classes, selection.dequantize)


def _opened(
    paths: Sequence[Path], readings: Sequence[Reading]
) -> tuple[dict[int, Checkpoint], dict[int, RebasinError]]:
    """Return the models that can be opened, and why the others cannot, by their positions."""
    opened: dict[int, Checkpoint] = {}
    failures: dict[int, RebasinError] = {}
    for k, (path, reading) in enumerate(zip(paths, readings, strict=True)):
        try:
            opened[k] = open_checkpoint(path, reading=reading)
        except RebasinError as error:
            failures[k] = error
    return opened, failures


def _together(failures: Sequence[RebasinError]) -> RebasinError:
    if len(failures) == 1:
        return failures[0]
    kinds = {type(failure) for failure in failures}
    kind = next((k for k in (MachineError, UsageError) if kinds == {k}), CheckpointError)
    return kind(*dict.fromkeys(p for failure in failures for p in failure.problems))


def _tell(
    without: Sequence[Checkpoint], models: Sequence[Checkpoint], selection: Selection
) -> None:
    """Say what was not read of some files, and with -v what stays as it is in them.

    without: those that lack the part that --key names.
    """
    for model in without:
        if model.layout.format == "pt":
            warnings.warn(
                f"{model.path} has no part {selection.key!r}: read as without --key",
                RebasinWarning,
                stacklevel=2,
            )
    for model in models:
        if model.dropped:
            kinds = sorted(set(model.dropped.values()))
            warnings.warn(
                f"{model.path}: left out {listing(list(model.dropped))}, objects of "
                f"{listing(kinds)}: an output will not have them",
                RebasinWarning,
                stacklevel=2,
            )
        if model.extra:
            told = f"{model.path}: stays as it is: {listing(model.extra)}"
            warnings.warn(told, DetailWarning, stacklevel=2)


def _check_renames(models: Sequence[Checkpoint], selection: Selection) -> None:
    """Raise UsageError for a --rename that changes no name of its models."""
    idle = dict.fromkeys(selection.renames)
    for number, model in enumerate(models, 1):
        names = [model.stored_name(name) for name in model.names()]
        for rename in selection.renames:
            new = substitute_names(rename.old, rename.new, names)
            if rename.model in (None, number) and new != names:
                idle.pop(rename, None)
                names = new
    if idle:
        names = [model.stored_name(name) for model in models for name in model.names()]
        raise UsageError(
            *(
                Problem(
                    f"--rename {rename} changes no name",
                    hint=suggest_tensor(rename.old, names),
                )
                for rename in idle
            )
        )


def _check_globs(models: Sequence[Checkpoint], selection: Selection) -> None:
    """Raise UsageError if a glob over tensor names matches none: it is a typing error."""
    names = {name for model in models for name in model.names()}
    globs = (*selection.only, *selection.skip, *selection.pass_through)
    idle = [glob for glob in globs if not fnmatch.filter(names, glob)]
    if idle:
        problems = [
            Problem(f"no tensor is called {glob!r}", hint=suggest_tensor(glob, names))
            for glob in idle
        ]
        raise UsageError(*problems)


def check_fit(
    reference: Checkpoint,
    models: Sequence[Checkpoint],
    selection: Selection,
    tracing: Tracing,
    *,
    apart: Sequence[str] = (),
) -> None:
    """Raise CheckpointError if a model has other tensors, shapes or settings than the reference.

    Dtypes of one kind may differ. Tensors left out by --only and --skip are not compared. apart:
    globs of those that need not be in all models.
    """
    problems: list[Problem] = []
    for number, model in enumerate(models, 2):
        difference = difference_of(infos(reference), infos(model), selection, apart=apart)
        problems += _mismatches(reference, model, difference, number)
    if problems:
        with told_of_codes([reference, *models]):
            raise CheckpointError(*problems)
    check_configs([reference, *models], tracing)


def check_moves_as(
    reference: Checkpoint, model: Checkpoint, selection: Selection, tracing: Tracing
) -> None:
    """Raise as `check_fit` does for a model whose units are to move as those of the reference.

    Nothing is computed of both, so that numbers may be of another kind, as in a mask; but not
    complex in one alone, which have an axis more for what moves them.
    """
    found = difference_of(infos(reference), infos(model), selection)
    a, b = found.wanted, found.found
    kinds = [n for n in found.kinds if a[n].dtype.is_complex != b[n].dtype.is_complex]
    problems = list(_mismatches(reference, model, replace(found, kinds=kinds), 2))
    if problems:
        raise CheckpointError(*problems)
    check_configs([reference, model], tracing)


def _mismatches(
    reference: Checkpoint, model: Checkpoint, difference: Difference, number: int
) -> Iterator[Problem]:
    """Yield what keeps a model from being compared with the reference, tensor by tensor."""
    missing, extra = difference.missing, difference.extra
    if missing or extra:
        yield Problem(
            f"its tensors are not those of {reference.path}",
            where=str(model.path),
            detail="\n".join(label_names("missing", missing) + label_names("not expected", extra)),
            hint=names_hint(difference, number),
        )
    a, b, shapes = difference.wanted, difference.found, difference.shapes
    if shapes:
        yield Problem(
            f"{len(shapes)} {plural(len(shapes), 'tensor')} of another shape "
            f"than in {reference.path}",
            where=str(model.path),
            detail="\n".join(
                label_names("shape", [shape_text(n, b[n].shape, a[n].shape) for n in shapes])
            ),
            hint=f"{_skipping(shapes)} leaves them as they are; where vocabularies, classes or "
            "channels differ, align, merge and lerp take what both have with --common; "
            "where layers are narrower, align --widen",
        )
    kinds = difference.kinds
    if kinds:
        texts = [
            f"{n} is {dtype_name(b[n].dtype)}, expected {dtype_name(a[n].dtype)}" for n in kinds
        ]
        yield Problem(
            f"{len(kinds)} {plural(len(kinds), 'tensor')} of another kind of "
            f"numbers than in {reference.path}",
            where=str(model.path),
            detail="\n".join(label_names("kind", texts)),
            hint=f"{_skipping(kinds)} leaves them as they are",
        )


def _skipping(names: Sequence[str]) -> str:
    """Return the options that leave tensors out, if they are few."""
    few = len(names) <= SHOWN
    return " ".join(f"--skip '{escape(name)}'" for name in names) if few else "--skip GLOB"


def describe_inputs(models: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Return what a plan says of its inputs."""
    return [
        {
            "path": str(model.path),
            "tensors": len(model.names()),
            "bytes": sum(model.info(name).nbytes for name in model.names()),
        }
        for model in models
    ]
