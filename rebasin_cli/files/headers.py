"""What the headers of several checkpoints say together: nothing is decided from one of them alone.

A tensor counts if any model has it, a tie if every model keeps it, and a size that config.json
tells is one that no model contradicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.files.names.running_averages import of_averages
from rebasin_cli.tensors import TensorInfo, infos


@dataclass(frozen=True)
class Headers:
    """The tensors of some models of one architecture, those of the first in front.

    ties: alias -> first name, in every model one tensor. everywhere: names that all models have.
    partial: names that a model lacks, and none that is tied to them is there instead. averages:
    running averages of other tensors, which follow them and hold none in place. config, folder: the
    content of the config.json that counts, and where it lies: the first one, but a model that is a
    bare backbone comes first. where: the first model.
    """

    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]
    everywhere: frozenset[str]
    partial: frozenset[str]
    averages: frozenset[str]
    config: Mapping[str, Any]
    folder: Path
    where: str

    @property
    def bare(self) -> bool:
        """Whether one of the models is a backbone, whose hidden states are its output."""
        return _bare(self.config)


def headers_of(models: Sequence[Checkpoint]) -> Headers:
    """Return what the models of a command have together; the first one's infos count."""
    each = [infos(model) for model in models]
    union = {name: info for found in reversed(each) for name, info in found.items()}
    ordered = {name: union[name] for found in each for name in found}
    everywhere = frozenset(name for name in ordered if all(name in found for found in each))
    ties = dict(_common_ties(models, everywhere))
    homes = [model for model in models if model.config]
    home = next((m for m in homes if _bare(m.config)), homes[0] if homes else models[0])
    averages = of_averages(ordered)
    return Headers(
        infos=ordered,
        ties=ties,
        everywhere=everywhere,
        partial=frozenset(_partial(each, ties)) - averages,
        averages=averages,
        config=home.config,
        folder=home.home,
        where=str(models[0].path),
    )


def _common_ties(
    models: Sequence[Checkpoint], everywhere: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """Yield alias and first name of tensors that are tied in every model that has both.

    Models may order the two names differently; the name that all models have counts as the first,
    so that there is a tensor to compare.
    """
    told: set[frozenset[str]] = set()
    aliases: set[str] = set()
    for alias, first in (pair for model in models for pair in model.ties.items()):
        if frozenset((alias, first)) in told or not all(_one(m, alias, first) for m in models):
            continue
        told.add(frozenset((alias, first)))
        swap = alias in everywhere and first not in everywhere
        name, other = (first, alias) if swap else (alias, first)
        if name not in aliases and other not in aliases:
            aliases.add(name)
            yield name, other


def _one(model: Checkpoint, alias: str, first: str) -> bool:
    """Return whether two names are one tensor in a model, or could be: it has one of them only."""
    names = model.names()
    if alias not in names or first not in names:
        return True
    return model.ties.get(alias, alias) == model.ties.get(first, first)


def _partial(each: Sequence[Mapping[str, TensorInfo]], ties: Mapping[str, str]) -> Iterator[str]:
    """Yield the names that a model has under no name."""
    same: dict[str, set[str]] = {}
    for alias, first in ties.items():
        same.setdefault(first, {first}).add(alias)
    tied = {name: names for names in same.values() for name in names}
    for name in dict.fromkeys(name for found in each for name in found):
        if not all(found.keys() & tied.get(name, {name}) for found in each):
            yield name


def _bare(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json names a class of transformers that has no head."""
    listed = config.get("architectures")
    title = listed[0] if isinstance(listed, list) and listed else None
    return isinstance(title, str) and bool(re.search(r"(?<!Head)(?<!Heads)Model$", title))
