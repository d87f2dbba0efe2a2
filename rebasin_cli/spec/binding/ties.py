"""Tied tensors: two names of one storage have one entry and one vote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rebasin_cli.spec.binding.cut_blocks import Piece
from rebasin_cli.spec.binding.entry_match import Placement
from rebasin_cli.spec.language.model import TextPlace
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.tensors import TensorInfo


class Ties:
    """The sets of names that share storage; the canonical name comes first in its set.

    infos: those of the checkpoint, and of tied names that it does not store: a spec may use
    either name, whatever the file format keeps.
    """

    def __init__(self, infos: Mapping[str, TensorInfo], ties: Mapping[str, str]) -> None:
        self._canonical = dict(ties)
        self.infos = dict(infos)
        for alias, canonical in ties.items():
            for missing, present in ((alias, canonical), (canonical, alias)):
                if missing not in self.infos and present in infos:
                    self.infos[missing] = replace(infos[present], name=missing)
        self._sets: dict[str, list[str]] = {}
        for alias, canonical in ties.items():
            self._sets.setdefault(canonical, [canonical]).append(alias)
        self._stored = frozenset(infos)

    def canonical(self, name: str) -> str:
        """Return the name that stands for all of the same storage."""
        return self._canonical.get(name, name)

    @property
    def silent(self) -> frozenset[str]:
        """The names that do not vote because another name of the same storage does."""
        stored = ([n for n in names if n in self._stored] for names in self._sets.values())
        return frozenset(name for names in stored for name in names[1:])

    def inherited(self, placements: Sequence[Placement]) -> list[Placement]:
        """Return the placements, in checkpoint order, with those of tied names that lack one."""
        placed = {name: p for p in placements for name in p.members}
        extra = []
        for names in self._sets.values():
            known = next((placed[n] for n in names if n in placed and not placed[n].stacked), None)
            if known is not None:
                extra += [replace(known, members=(n,)) for n in names if n not in placed]
        order = {name: position for position, name in enumerate(self.infos)}
        return sorted([*placements, *extra], key=lambda p: min(order[n] for n in p.members))

    def check(
        self,
        placements: Sequence[Placement],
        cut: Sequence[Sequence[Piece]],
        problems: Problems,
    ) -> None:
        """Add a problem for each set of tied names whose entries mean different axes."""
        blocks = {
            name: (p.stacked, [piece.block for piece in pieces])
            for p, pieces in zip(placements, cut, strict=True)
            for name in p.members
        }
        at: dict[str, TextPlace | None] = {name: p.at for p in placements for name in p.members}
        for canonical, *aliases in self._sets.values():
            for alias in aliases:
                if canonical in blocks and alias in blocks and blocks[alias] != blocks[canonical]:
                    other = at[canonical]
                    problems.add(
                        f"{alias!r} and {canonical!r} are tied but have different axes",
                        at[alias],
                        detail=f"{canonical!r} has its entry in line {other.line}" if other else "",
                        hint="they share one storage: give both the same axes, or name only one",
                    )
