"""A spec in a model's names, said again in the names under which files store its tensors.

Files may keep one tensor of a model as several, and a stack of experts under a name for each:
`experts.gate_up_proj: [e, i + i, s]` becomes `experts.[e].w1: [e, i, s]` and the same for w3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.cut_blocks import axis_size
from rebasin_cli.spec.language.model import (
    Axes,
    AxisExpr,
    Entry,
    Fixed,
    Named,
    Norm,
    Product,
    Spec,
    Split,
    Sum,
    axes_of,
    axis_names,
    concatenation,
    product,
)
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Window

VARIABLE, OPTIONAL = "e", "?"


@dataclass(frozen=True)
class _WindowCut:
    """What a window takes of each axis of its source, and in which order.

    order: source axis of each axis of the window. picks: axis -> the one index taken.
    spans: axis -> start and end of what is taken.
    """

    order: tuple[int, ...]
    picks: tuple[tuple[int, int], ...]
    spans: tuple[tuple[int, int], ...]


def stored_spec(
    spec: Spec,
    infos: Mapping[str, TensorInfo],
    windows: Mapping[str, Window],
    sizes: Mapping[str, int],
) -> Spec:
    """Return the spec for the stored names.

    spec: one entry for each tensor of the model. infos: of these tensors. windows: stored name ->
    its place in them. sizes: of all groups; the `scattered_groups` have to be fixed before. Raises
    SpecError where a stored tensor cuts through a group or cannot be said as axes.
    """
    tensors: dict[str, Entry] = {}
    names: defaultdict[str, list[str]] = defaultdict(list)
    optional = {name.removesuffix(OPTIONAL) for name in spec.tensors if name.endswith(OPTIONAL)}
    spec = _by_name(spec)
    for pattern, window, cut in _patterns(spec, infos, windows):
        names[window.source].append(pattern)
        if window.source in spec.tensors:
            entry = spec.tensors[window.source]
            made = _Cutter(infos[window.source], sizes).entry(pattern, entry, cut)
            tensors[f"{pattern}{OPTIONAL}" if window.source in optional else pattern] = made

    def listed(patterns: Sequence[str]) -> tuple[str, ...]:
        return tuple(stored for name in patterns for stored in names[name])

    return replace(
        spec,
        tensors=tensors,
        buffers=listed(spec.buffers),
        transposed=listed(spec.transposed),
        norms=dict(_norms(spec, names)),
        text="",
        places={},
    )


def _by_name(spec: Spec) -> Spec:
    """Return a spec whose entries bear the names of tensors alone, those of optional ones too."""
    return replace(spec, tensors={n.removesuffix(OPTIONAL): e for n, e in spec.tensors.items()})


def _norms(spec: Spec, names: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Norm]]:
    """Yield the norms by stored names, without those whose gain is stored in parts."""

    def listed(patterns: Sequence[str]) -> tuple[str, ...]:
        stored = (found for name in patterns for found in names.get(name, ()))
        return tuple(name.replace(f"[{VARIABLE}]", "*") for name in stored)

    for gain, norm in spec.norms.items():
        stored = listed([gain])
        tied, bias = (next(iter(listed([n])), None) if n else None for n in (norm.tied, norm.bias))
        made = replace(
            norm, readers=listed(norm.readers), writers=listed(norm.writers), tied=tied, bias=bias
        )
        if len(stored) == 1 and (made.readers or made.writers or made.tied):
            yield stored[0], made


def scattered_groups(
    spec: Spec, infos: Mapping[str, TensorInfo], windows: Mapping[str, Window]
) -> frozenset[str]:
    """Return the groups, and those inside them, that no axis of names can carry.

    Such an axis belongs to one group; experts that move in teams (`team * 3`) are two factors.
    """
    found, spec = set(), _by_name(spec)
    for name, window in windows.items():
        cut = _cut(name, infos[window.source], window)
        found |= set(axis_names(a for a in _picked(spec, window, cut) if not isinstance(a, Named)))
    while inner := {n for n, group in spec.groups.items() if group.per in found} - found:
        found |= inner
    return frozenset(found)


def _picked(spec: Spec, window: Window, cut: _WindowCut) -> list[AxisExpr]:
    """Return the axes of which a window takes one index."""
    parts = axes_of(spec.tensors.get(window.source, ()))
    return [part[axis] for part in parts for axis, _ in cut.picks if axis < len(part)]


def _patterns(
    spec: Spec, infos: Mapping[str, TensorInfo], windows: Mapping[str, Window]
) -> Iterator[tuple[str, Window, _WindowCut]]:
    """Yield stored names, those that make up a stack as one pattern, with what they take.

    Tensors that nothing brings into another order stay by themselves.
    """
    alike: defaultdict[tuple[object, ...], list[tuple[str, Window, _WindowCut]]] = defaultdict(list)
    for name, window in windows.items():
        cut = _cut(name, infos[window.source], window)
        stacked = any(isinstance(axis, Named) for axis in _picked(spec, window, cut))
        alone = replace(cut, picks=())
        key = (window.source, cut.order, cut.spans) if stacked else (name,)
        alike[key].append((name, window, cut if stacked else alone))
    for members in alike.values():
        name, window, cut = members[0]
        if cut.picks:
            name = _stack([m[0] for m in members], [m[2] for m in members], infos[window.source])
        yield name, window, cut


def _stack(names: Sequence[str], cuts: Sequence[_WindowCut], source: TensorInfo) -> str:
    """Return the pattern of names that hold one index each of an axis, all of them in order."""
    ((axis, _),) = cuts[0].picks if len(cuts[0].picks) == 1 else ((-1, 0),)
    index = {name: dict(cut.picks).get(axis) for name, cut in zip(names, cuts, strict=True)}
    if axis >= 0 and sorted(map(str, index.values())) == sorted(
        map(str, range(source.shape[axis]))
    ):
        for place in INDEX_IN_NAME.finditer(names[0]):
            head, tail = names[0][: place.start()], names[0][place.end() :]
            if all(name == f"{head}{index[name]}{tail}" for name in names):
                return f"{head}[{VARIABLE}]{tail}"
    raise SpecError(
        f"{source.name} is stored as {len(names)} tensors that are not a stack",
        detail=f"such as {names[0]}",
        hint="write a spec for the stored names, and give it with --spec",
    )


def _cut(name: str, source: TensorInfo, window: Window) -> _WindowCut:
    """Return what a window takes of the axes of its source."""
    steps = Window.whole(source).strides
    rest, starts = window.offset, []
    for step in steps:
        starts.append(rest // step if step else 0)
        rest -= starts[-1] * step
    free = [axis for axis, size in enumerate(source.shape) if size > 1]
    order: list[int] = []
    for size, stride in zip(window.shape, window.strides, strict=True):
        found = [a for a in free if steps[a] == stride and a not in order] if size > 1 else []
        order.append(found[0] if found else -1)
        inside = all(starts[axis] + size <= source.shape[axis] for axis in found)
        if size > 1 and not (found and inside):
            raise SpecError(f"{name} is not a part of {source.name} that axes could describe")
    picks = tuple((axis, starts[axis]) for axis in free if axis not in order)
    sizes = dict(zip(order, window.shape, strict=True))
    spans = tuple((start, start + sizes.get(axis, 1)) for axis, start in enumerate(starts))
    return _WindowCut(
        tuple(order), picks, tuple(s if a in order else (0, 0) for a, s in enumerate(spans))
    )


@dataclass(frozen=True)
class _Cutter:
    """Cuts entries of one tensor of a model. sizes: of all groups."""

    source: TensorInfo
    sizes: Mapping[str, int]

    def entry(self, name: str, entry: Entry, cut: _WindowCut) -> Entry:
        """Return the entry of a stored tensor; the axis of names comes first."""
        axes = self._axes(name, entry, cut)
        if isinstance(axes, Split):
            return axes
        stack = [axes[axis] for axis, _ in cut.picks]
        kept = [
            Fixed(1) if axis < 0 else self._sliced(name, axes[axis], cut.spans[axis])
            for axis in cut.order
        ]
        return (*stack, *kept)

    def _axes(self, name: str, entry: Entry, cut: _WindowCut) -> Axes | Split:
        """Return the axes of the cut piece; a split stays one only if the piece is all of it."""
        rank = len(self.source.shape)
        if not isinstance(entry, Split):
            return _pad_axes(entry, rank)
        whole = tuple((0, size) if size > 1 else (0, 0) for size in self.source.shape)
        free = [axis for axis in cut.order if axis >= 0]
        if cut.spans == whole and len(cut.order) == rank and free == sorted(free):
            return entry
        start = 0
        for part in (_pad_axes(part, rank) for part in entry.parts):
            end = start + axis_size(part[entry.axis], self.sizes)
            if cut.spans[entry.axis] == (start, end):
                # Placeholders stand for the parts before, so that spans keep their meaning.
                moved = concatenation([*([Fixed(start)] if start else []), part[entry.axis]])
                return (*part[: entry.axis], moved, *part[entry.axis + 1 :])
            start = end
        raise _through(name, self.source.name)

    def _sliced(self, name: str, tree: AxisExpr, span: tuple[int, int]) -> AxisExpr:
        """Return what a slice leaves of an axis expression."""
        start, end = span
        if isinstance(tree, Fixed) and tree.size is None:
            return tree
        size = axis_size(tree, self.sizes)
        if (start, end) == (0, size):
            return tree
        if isinstance(tree, Fixed):
            return Fixed(end - start)
        if isinstance(tree, Sum):
            return self._segments(name, tree, span)
        inner = self._inner(tree)
        if inner is not None and start % inner[1] == 0 and end % inner[1] == 0:
            times = (end - start) // inner[1]
            return inner[0] if times == 1 else product([Fixed(times), inner[0]])
        raise _through(name, self.source.name)

    def _inner(self, tree: AxisExpr) -> tuple[AxisExpr, int] | None:
        """Return what a product with a fixed first factor repeats, and its size."""
        if not isinstance(tree, Product) or not isinstance(tree.factors[0], Fixed):
            return None
        inner = product(tree.factors[1:])
        return inner, axis_size(inner, self.sizes)

    def _segments(self, name: str, tree: Sum, span: tuple[int, int]) -> AxisExpr:
        kept, begin = [], 0
        for segment in tree.segments:
            size = axis_size(segment, self.sizes)
            low, high = max(span[0] - begin, 0), min(span[1] - begin, size)
            if low < high:
                kept.append(self._sliced(name, segment, (low, high)))
            begin += size
        return concatenation(kept)


def _pad_axes(axes: Axes, rank: int) -> Axes:
    return (*axes, *(Fixed() for _ in range(rank - len(axes))))


def _through(name: str, source: str) -> SpecError:
    return SpecError(
        f"{name} is a part of {source} whose ends are not those of a group",
        hint="write a spec for the stored names, and give it with --spec",
    )
