"""Templates in group names replaced by the indices of the tensor at hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rebasin_cli.spec.binding.entry_match import Matched, Placement
from rebasin_cli.spec.language.expression import TEMPLATE, templates
from rebasin_cli.spec.language.model import (
    Axes,
    AxisExpr,
    Fixed,
    Named,
    Spec,
    Split,
    TextPlace,
    axes_of,
    axis_names,
    entry_names,
    leaves,
    rewritten,
)
from rebasin_cli.spec.language.pattern import END
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.spec.language.tensor_names import INDEX, TensorNames, end_of


def resolve(
    spec: Spec, matched: Sequence[Matched], names: TensorNames, problems: Problems
) -> list[Placement]:
    """Return the tensors with concrete group names, in the same order.

    An entry without any index whose group says `{last}` means the last of the groups that the
    other entries make, so these come second.
    """
    resolver = _Resolver(spec, names, problems)
    placed: dict[int, Placement | None] = {}
    for late in (False, True):
        groups = frozenset(_names(p for p in placed.values() if p))
        for position, tensor in enumerate(matched):
            if _is_late(spec, tensor) is late:
                placed[position] = resolver.place(tensor, groups)
    ordered = (placed[position] for position in range(len(matched)))
    return [placement for placement in ordered if placement is not None]


def _is_late(spec: Spec, tensor: Matched) -> bool:
    if tensor.pattern.indices or tensor.pattern.ends:
        return False
    entry = spec.tensors[tensor.pattern.text]
    return any(map(templates, entry_names(entry)))


def _names(placements: Iterable[Placement]) -> Iterator[str]:
    for placement in placements:
        for axes in placement.parts:
            yield from axis_names(axes)


class _Resolver:
    def __init__(self, spec: Spec, names: TensorNames, problems: Problems) -> None:
        self._spec, self._names, self._problems = spec, names, problems
        self._unnamed = 0

    def place(self, tensor: Matched, groups: frozenset[str]) -> Placement | None:
        """Return the tensor's placement, or None after a problem was added."""
        entry = self._spec.tensors[tensor.pattern.text]
        before = self._problems.added
        parts = tuple(self._axes(tensor, axes, groups) for axes in axes_of(entry))
        split = entry.axis if isinstance(entry, Split) else None
        at = self._spec.places.get(("tensors", tensor.pattern.text))
        if split is not None and split >= len(tensor.shape):
            self._problems.add(
                f"{tensor.members[0]!r} has no axis {split} to split",
                at,
                detail=f"its shape is {list(tensor.shape)}",
                kind="split",
            )
        if self._problems.added > before:
            self._problems.doubt(entry)
            return None
        return Placement(tensor.members, tensor.stacked, tensor.shape, split, parts, at)

    def _axes(self, tensor: Matched, axes: Axes, groups: frozenset[str]) -> Axes:
        rank = len(tensor.shape)
        if len(axes) > rank:
            self._too_many(tensor, axes)
        missing = [Fixed()] * (rank - len(axes))
        return tuple(self._tree(tensor, axis, groups) for axis in (*axes, *missing))

    def _too_many(self, tensor: Matched, axes: Axes) -> None:
        self._problems.add(
            f"{tensor.members[0]!r} has {len(tensor.shape)} axes, the spec lists {len(axes)}",
            place_of_axis(axes[len(tensor.shape)]),
            detail=f"its shape is {list(tensor.shape)}",
            kind="rank",
        )

    def _tree(self, tensor: Matched, tree: AxisExpr, groups: frozenset[str]) -> AxisExpr:
        def resolved(leaf: Named | Fixed) -> AxisExpr:
            if isinstance(leaf, Named):
                return Named(self._name(tensor, leaf, groups), leaf.at)
            return leaf if leaf.size is not None else self._any_size(leaf.at)

        return rewritten(tree, resolved)

    def _any_size(self, at: TextPlace | None) -> Named:
        self._unnamed += 1
        return Named(f"~{self._unnamed}", at)

    def _name(self, tensor: Matched, leaf: Named, groups: frozenset[str]) -> str:
        text = leaf.name
        for template in templates(text):
            index = self._index(tensor, text, template, groups)
            if index is None:
                self._no_index(tensor, leaf, template)
                return text
            text = text.replace(f"{{{template}}}", str(index))
        return text

    def _index(
        self, tensor: Matched, name: str, template: str, groups: frozenset[str]
    ) -> int | None:
        match = tensor.match
        variable = template.partition(".")[0]
        if variable in match.indices:
            return self._names.neighbour(*match.indices[variable], template)
        if len(match.ends) == 1:
            return self._names.end(match.ends[0], template)
        if len(match.indices) == 1:
            ((place, _),) = match.indices.values()
            return self._names.end(place, template)
        return end_of(_made(name, template, groups), template)

    def _no_index(self, tensor: Matched, leaf: Named, template: str) -> None:
        end = END.fullmatch(template)
        self._problems.add(
            f"{{{template}}} of {tensor.members[0]!r} does not exist",
            leaf.at,
            detail=f"no other entry makes a group like {leaf.name!r}"
            if end and not (tensor.match.ends or tensor.match.indices)
            else f"there is no such index beside {_indices(tensor, self._names)}",
            hint="give this tensor an entry of its own, for instance with {first} or {last}",
            kind="index",
        )


def _indices(tensor: Matched, names: TensorNames) -> str:
    places = [place for place, _ in tensor.match.indices.values()] + [*tensor.match.ends]
    return "; ".join(f"{p!r}: {', '.join(map(str, names.at(p)[:8]))}" for p in places)


def _made(name: str, template: str, groups: frozenset[str]) -> list[int]:
    """Return the integers that stand in the template's position in existing group names."""
    before, _, after = name.partition(f"{{{template}}}")
    shape = re.compile(_loosely(before) + f"({INDEX})" + _loosely(after))
    found = (shape.fullmatch(group) for group in groups)
    return sorted({int(match[1]) for match in found if match})


def _loosely(text: str) -> str:
    return INDEX.join(map(re.escape, TEMPLATE.split(text)[::2]))


def place_of_axis(tree: AxisExpr) -> TextPlace | None:
    """Return the place of an axis expression, from its first factor to its last."""
    places = [leaf.at for leaf in leaves(tree)]
    first, last = places[0], places[-1]
    if first is None or last is None or first.line != last.line:
        return first
    return TextPlace(first.line, first.column, last.column + last.width - first.column)
