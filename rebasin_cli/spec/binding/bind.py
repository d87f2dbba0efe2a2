"""A spec and a checkpoint's headers to blocks: the last step that sees axis expressions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from rebasin_cli.spec.binding.bound import BoundGroup, BoundSpec
from rebasin_cli.spec.binding.bound_norms import bind_norms
from rebasin_cli.spec.binding.cut_blocks import Piece, count_pieces, cut_pieces, of_pairs
from rebasin_cli.spec.binding.declared import (
    Declared,
    Sizes,
    ancestry,
    declared_groups,
    declared_parents,
)
from rebasin_cli.spec.binding.entry_match import Placement, match_tensors, matching_names
from rebasin_cli.spec.binding.resolve import resolve
from rebasin_cli.spec.binding.sizes import check_turns, solve_sizes
from rebasin_cli.spec.binding.symmetry import (
    Occurrences,
    check_parents,
    check_sides,
    group_occurrences,
    one_sided,
)
from rebasin_cli.spec.binding.ties import Ties
from rebasin_cli.spec.language.model import (
    PERMUTATION,
    ROTARY,
    Named,
    Spec,
    TextPlace,
    axis_names,
    leaves,
    parts_of,
)
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.spec.language.tensor_names import TensorNames
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import BoundTensor

MAX_BLOCKS = 10_000


def bind(
    spec: Spec,
    infos: Mapping[str, TensorInfo],
    *,
    config: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    ties: Mapping[str, str] | None = None,
) -> BoundSpec:
    """Return the spec with sizes and blocks for tensors of these names and shapes.

    infos: in checkpoint order. config: the content of config.json. sizes: override `sizes:`.
    ties: alias name -> canonical name of the same storage. Raises SpecError with every problem.
    """
    return _Binder(spec, infos, Sizes(spec, sizes or {}, config or {}), ties or {}).bound()


def one_sided_groups(
    spec: Spec, infos: Mapping[str, TensorInfo], *, ties: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the groups that, by their places, no tensor writes or none reads.

    `bind` refuses them unless the spec declares them so: mostly a tensor was forgotten. But two
    projections that are only multiplied with each other write units that nothing reads.
    """
    return _Binder(spec, infos, Sizes(spec, {}, {}), ties or {}).one_sided()


def uncovered_tensors(bound: BoundSpec, infos: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Return the untouched floating tensors that have more than one element."""
    return tuple(name for name in bound.untouched if infos[name].floating and infos[name].numel > 1)


class _Binder:
    """One binding; a stage that finds problems lets the next ones go on with what is left."""

    def __init__(
        self,
        spec: Spec,
        infos: Mapping[str, TensorInfo],
        sizes: Sizes,
        ties: Mapping[str, str],
    ) -> None:
        self._spec, self._sizes = spec, sizes
        self._problems = Problems(spec.source, spec.text)
        self._ties = Ties(infos, ties)
        self._infos = infos
        self._names = TensorNames(self._ties.infos)

    def bound(self) -> BoundSpec:
        spec, problems, names = self._spec, self._problems, self._names
        self._sizes.check_given(problems)
        placements = self._placements()
        buffers = matching_names(spec, "buffers", spec.buffers, names, problems)
        used = _first_uses(placements)
        groups = [name for name in used if self._owner(name)]
        declared = declared_groups(spec, groups, problems)
        known, broken = self._known(used, declared)
        sizes = solve_sizes(placements, known, broken, self._sizes, problems)
        if not problems.added:  # sizes that are wrong would not alternate either
            check_turns(placements, sizes, problems)
        declared = _turning_together(declared, placements)
        per = declared_parents(spec, declared, groups, problems)
        self._check_stacks(placements)
        turning = {name for name, d in declared.items() if d.maps.startswith(ROTARY)}
        excused = {n for n, d in declared.items() if d.fixed or d.one_sided} | turning
        check_sides(self._occurrences(placements), per, excused, problems)
        ancestors = {name: ancestry(per, name)[:0:-1] for name in per}
        cut = [self._cut(placement, sizes, ancestors) for placement in placements]
        self._ties.check(placements, cut, problems)
        problems.stop()
        found = _bound_groups(groups, sizes, ancestors, declared)
        if not spec.maps_hold(self._model_type):
            found = {name: replace(group, maps=PERMUTATION) for name, group in found.items()}
        return self._result(placements, cut, found, buffers)

    def one_sided(self) -> tuple[str, ...]:
        placements = self._placements()
        groups = [name for name in _first_uses(placements) if self._owner(name)]
        declared = declared_groups(self._spec, groups, self._problems)
        per = declared_parents(self._spec, declared, groups, self._problems)
        return tuple(one_sided(self._occurrences(placements), per))

    @property
    def _model_type(self) -> object:
        return self._sizes.configured("config.model_type")

    def _placements(self) -> list[Placement]:
        matched = match_tensors(self._spec, self._ties.infos, self._names, self._problems)
        resolved = resolve(self._spec, matched, self._names, self._problems)
        return list(self._ties.inherited(resolved))

    def _occurrences(self, placements: Sequence[Placement]) -> Occurrences:
        return group_occurrences(placements, self._owner, self._transposed)

    @cached_property  # what is wrong with the patterns is reported once
    def _transposed(self) -> frozenset[str]:
        listed = self._spec.transposed
        return matching_names(self._spec, "transposed", listed, self._names, self._problems)

    def _owner(self, name: str) -> str | None:
        return None if name.startswith("~") or name in self._sizes else name

    def _known(
        self, used: Mapping[str, TextPlace | None], declared: Mapping[str, Declared]
    ) -> tuple[dict[str, int], set[str]]:
        """Return the sizes that need no shape, and the names whose size is not available."""
        known: dict[str, int | None] = {}
        for name, at in used.items():
            if name in self._sizes:
                known[name] = self._sizes.find(name, at, self._problems)
        for key in dict.fromkeys(d.key for d in declared.values() if d.size is not None):
            at = self._spec.places.get(("groups", key))
            size = self._sizes.find(self._spec.groups[key].size or 0, at, self._problems)
            known |= {name: size for name, d in declared.items() if d.key == key}
        found = {name: size for name, size in known.items() if size is not None}
        return found, known.keys() - found.keys()

    def _check_stacks(self, placements: Iterable[Placement]) -> None:
        for placement in placements:
            first = placement.parts[0][0] if placement.stacked else None
            if isinstance(first, Named) and self._owner(first.name) is None:
                what = f"{first.name!r} is a size, but an axis of names belongs to a group"
                self._problems.add(what, first.at, kind="stack")
            elif first is not None and parts_of(first):
                what = "an axis of names belongs to one group, not to several factors or segments"
                self._problems.add(what, placement.at, kind="stack")

    def _cut(
        self,
        placement: Placement,
        sizes: Mapping[str, int],
        ancestors: Mapping[str, Sequence[str]],
    ) -> list[Piece]:
        if sum(map(count_pieces, placement.parts)) > MAX_BLOCKS:
            what = f"{placement.members[0]!r} falls into more than {MAX_BLOCKS:,} blocks"
            self._problems.add(what, placement.at)
            return []
        cut = cut_pieces(placement, sizes, self._owner)
        check_parents(placement, cut, ancestors, self._problems)
        return cut

    def _result(
        self,
        placements: Sequence[Placement],
        cut: Sequence[Sequence[Piece]],
        groups: Mapping[str, BoundGroup],
        buffers: frozenset[str],
    ) -> BoundSpec:
        silent = buffers | self._ties.silent
        tensors = [
            self._tensor(placement, found, silent)
            for placement, found in zip(placements, cut, strict=True)
            if placement.members[0] in self._infos
        ]
        tensors = _with_codebooks(tensors, self._infos, groups)
        named = {name for tensor in tensors for name in tensor.members}
        untouched = tuple(name for name in self._infos if name not in named)
        stored = frozenset(name for name in buffers if name in self._infos)
        norms = bind_norms(self._spec, self._names, self._ties, model_type=self._model_type)
        return BoundSpec(
            self._spec, groups, tuple(tensors), untouched, stored, self._transposed, norms
        )

    def _tensor(
        self, placement: Placement, cut: Sequence[Piece], silent: frozenset[str]
    ) -> BoundTensor:
        info, shape = self._infos[placement.members[0]], placement.shape
        votes = info.floating and silent.isdisjoint(placement.members)
        blocks = tuple(piece.block for piece in cut)
        if info.dtype.is_complex:
            blocks, shape = tuple(map(of_pairs, blocks)), (*shape, 2)
        return BoundTensor(placement.members, placement.stacked, shape, blocks, votes)


def _with_codebooks(
    tensors: Sequence[BoundTensor],
    infos: Mapping[str, TensorInfo],
    groups: Mapping[str, BoundGroup],
) -> list[BoundTensor]:
    """Return the tensors where matrices among the buffers vote for what no other tensor tells.

    The codes of a quantiser that is not trained by gradients stand in buffers alone.
    """
    told = {group for t in tensors if t.votes for group in t.groups}
    untold = {name for name, group in groups.items() if not group.fixed} - told
    return [
        replace(t, votes=True)
        if len(t.shape) > 1 and untold & t.groups and infos[t.members[0]].floating
        else t
        for t in tensors
    ]


def _first_uses(placements: Iterable[Placement]) -> dict[str, TextPlace | None]:
    """Return all names of axis expressions in the order of first use, with the place of that."""
    found: dict[str, TextPlace | None] = {}
    for placement in placements:
        for leaf in (leaf for part in placement.parts for axis in part for leaf in leaves(axis)):
            if isinstance(leaf, Named):
                found.setdefault(leaf.name, leaf.at)
    return found


def _turning_together(
    declared: Mapping[str, Declared], placements: Iterable[Placement]
) -> dict[str, Declared]:
    """Return the declarations with what rotates held still where its parent is not beside it.

    Rotary dims turn by one angle in each key-value head; a norm of queries and keys, whose gain
    all heads share, lets none of them turn.
    """
    found = dict(declared)
    for part in (part for placement in placements for part in placement.parts):
        names = set(axis_names(part))
        for name in names & declared.keys():
            said = declared[name]
            if said.maps.startswith(ROTARY) and said.per and said.per not in names:
                found[name] = replace(said, per=None, fixed=True, maps=PERMUTATION)
    return found


def _bound_groups(
    groups: Iterable[str],
    sizes: Mapping[str, int],
    ancestors: Mapping[str, Sequence[str]],
    declared: Mapping[str, Declared],
) -> dict[str, BoundGroup]:
    """Return the groups with parents before their children."""
    found: dict[str, BoundGroup] = {}
    for group in groups:
        for name in (*ancestors.get(group, ()), group):
            above = tuple(ancestors.get(name, ()))
            shape = tuple(sizes[member] for member in (*above, name))
            found.setdefault(name, _bound_group(name, shape, above, declared.get(name)))
    return found


def _bound_group(
    name: str, shape: tuple[int, ...], parents: tuple[str, ...], declared: Declared | None
) -> BoundGroup:
    """Return a group. A rotary one, or one unit that may be mapped, has nothing to permute."""
    maps = declared.maps if declared else PERMUTATION
    still = maps.startswith(ROTARY) or (maps != PERMUTATION and shape[-1] == 1)
    return BoundGroup(
        name, shape, parents, still or (declared is not None and declared.fixed), maps
    )
