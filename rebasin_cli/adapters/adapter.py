"""An adapter, or a copy of some of a model's tensors: what each of its tensors follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rebasin_cli.adapters.factor_names import (
    FactorEntry,
    Role,
    entry_of,
    known_method,
)
from rebasin_cli.adapters.followers import Follower, Following
from rebasin_cli.adapters.module_names import module_names
from rebasin_cli.adapters.unknown_tensors import refuse_or_keep
from rebasin_cli.adapters.weight_names import find_weights_of
from rebasin_cli.checkpoint.failures import reading
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.errors import CheckpointError, Problem
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors.blocks import BoundTensor

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """What of an adapter follows a model.

    kept: names of what stays, although nothing is known of it. foreign: of other networks.
    """

    followers: tuple[Follower, ...]
    tensors: tuple[BoundTensor, ...]
    kept: tuple[str, ...]
    foreign: tuple[str, ...]


def bind_adapter(
    adapter: Checkpoint, model: Checkpoint, bound: BoundSpec, *, keep_unknown: bool
) -> Adapter:
    """Return what the tensors of an adapter follow.

    Raises PermutationError naming those that follow nothing that is known, unless they are kept.
    """
    entries = [entry_of(name) for name in adapter.names()]
    names = {name: _spec_name(name, model) for name in (*model.names(), *model.ties)}
    found = find_weights_of(entries, names)
    if found.lacking:
        names = {**module_names(model), **names}
        found = find_weights_of(entries, names)
    stuck = [e.name for e in entries if e.role is Role.STUCK and e.name in found.weights]
    wrong = dict(_unknown(entries, [*found.lacking, *stuck], model))
    followers = [
        Follower(entry, names[found.weights[entry.name]], adapter.info(entry.name).shape)
        for entry in entries
        if entry.name in found.weights and entry.name not in wrong
    ]
    tensors = []
    for name, result in Following(bound, inwards=_inwards(adapter.path)).bind(followers):
        if isinstance(result, BoundTensor):
            tensors.append(result)
        else:
            wrong[name] = result.problems[0]
    refuse_or_keep(wrong, adapter.path, keep_unknown=keep_unknown)
    return Adapter(tuple(followers), tuple(tensors), tuple(wrong), found.foreign)


def _inwards(path: Path) -> Callable[[str], bool]:
    """Return whether the vector of IA3 of a module scales what it reads, as its configuration says.

    By the ends of names, or a regular expression.
    """
    named = adapter_configuration(path).get("feedforward_modules")
    if isinstance(named, str):
        return partial(_matches, named)
    ends = tuple(n for n in named if isinstance(n, str)) if isinstance(named, list) else ()
    return lambda module: module.endswith(ends)


def _matches(pattern: str, module: str) -> bool:
    with suppress(re.error):
        return re.fullmatch(pattern, module) is not None
    return False


def adapter_configuration(path: Path) -> Mapping[str, object]:
    """Return the adapter_config.json of a folder, or beside a file; empty if there is none."""
    config = (path if path.is_dir() else path.parent) / ADAPTER_CONFIG
    try:
        with reading(config):
            data = config.read_bytes()
        return parse_object(data, where=str(config), what="the configuration")
    except CheckpointError:
        return {}


def _spec_name(name: str, model: Checkpoint) -> str:
    """Return the name of a tied tensor under which the spec has it."""
    return name if name in model.names() else model.ties.get(name, name)


def _unknown(
    entries: Sequence[FactorEntry], lacking: Sequence[str], model: Checkpoint
) -> Iterator[tuple[str, Problem]]:
    """Yield the tensors that follow nothing, and why."""
    left = set(lacking)
    for entry in entries:
        if entry.name not in left or entry.role is Role.STILL:
            continue
        what, why = f"{entry.name!r} cannot follow a permutation", known_method(entry.name)
        if not why:
            why = f"it would follow {entry.target!r}, and {model.path} has no such tensor"
        yield entry.name, Problem(what, detail=why)
