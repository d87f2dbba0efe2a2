"""Looking at the points of a trace while the model runs, and at the units that lie on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import SpecError, UserCodeError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.spec.language.model import (
    Axes,
    AxisExpr,
    Declaration,
    Entry,
    Fixed,
    Named,
    Product,
    Spec,
    Split,
    entry_names,
    leaves,
    rewritten,
    with_axes,
)
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Block
from rebasin_cli.tensors.trees import tensors_in
from rebasin_cli.tracer.points.points import Point
from rebasin_cli.tracer.recording.dispatch import OperatorMode
from rebasin_cli.tracer.recording.recorder import plain_name, primitive_kernels, unfused_attention

See = Callable[[int, Tensor], None]
PointDims = tuple[tuple[str, int], ...]
CROSSED = 2048  # units at a place where two families multiply
_VALUE = "value"


@dataclass(frozen=True)
class Units:
    """The units at a point, one column each.

    dims: the groups whose product the columns are, outer first, with their sizes.
    samples: (count, product of the sizes); every place that is not a unit's counts.
    """

    dims: PointDims
    samples: Tensor


@contextmanager
def observing(model: nn.Module, points: Sequence[Point], see: See) -> Iterator[None]:
    """Show `see` what is at each point of one pass: its number among the points, and the tensor.

    What is shown may be overwritten later in the pass. Raises UserCodeError if the model does not
    call the operators that it called when it was traced.
    """
    observer = _PointObserver(points, see)
    torch.manual_seed(0)
    with _as_recorded(model), observer:
        yield
    for point in points:
        if observer.calls[point.operator] != point.calls:
            raise _other_way(point, observer.calls[point.operator])


def units_at(point: Point, value: Tensor, groups: Mapping[str, BoundGroup]) -> list[Units]:
    """Return the units of a point's groups, block by block of its value.

    groups: those that may move, or are the parents of such; others are like fixed axes. Raises
    UserCodeError if the value cannot have these axes.
    """
    wanted = set(point.groups) & groups.keys()
    whole = value.contiguous()
    found = []
    for block in _blocks(point, tuple(value.shape), groups):
        if wanted & set(block.groups) and unit_count(filter(None, block.groups), groups):
            found.append(_units(block, whole))
    return found


def unit_count(names: Iterable[str], groups: Mapping[str, BoundGroup]) -> int:
    """Return how many units the groups of a block make together.

    0: too many to be compared, since groups of different families multiply there.
    """
    here = [groups[name] for name in names if name in groups]
    units = prod(group.size for group in here)
    crossed = len({group.root for group in here}) > 1
    return 0 if crossed and units > CROSSED else units


@contextmanager
def _as_recorded(model: nn.Module) -> Iterator[None]:
    """Run what the record has as operators of its own; convolutions are quicker as they come."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        with unfused_attention():
            yield
        return
    with primitive_kernels(), torch.backends.cudnn.flags(enabled=False):
        yield


class _PointObserver(OperatorMode):
    """calls: how often each operator was called so far."""

    def __init__(self, points: Sequence[Point], see: See) -> None:
        super().__init__()
        self._see = see
        self.calls: Counter[str] = Counter()
        self._waiting: defaultdict[tuple[str, int], list[tuple[int, Point]]] = defaultdict(list)
        for number, point in enumerate(points):
            self._waiting[point.operator, point.turn].append((number, point))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = plain_name(func)
        for number, point in self._waiting.pop((name, self.calls[name]), ()):
            self._see(number, tensors_in((args, kwargs))[point.operand])
        self.calls[name] += 1
        return func(*args, **kwargs)


def _other_way(point: Point, calls: int) -> UserCodeError:
    return UserCodeError(
        "the model does not run as it did when it was traced",
        detail=f"it calls {point.operator} {calls} times, then it was {point.calls} times",
        hint="which operators it runs may not depend on the numbers in a batch; where it depends "
        "on the shape, trace it with an --input like the batches",
    )


def _units(block: Block, whole: Tensor) -> Units:
    view = block.view(whole)
    owned = [axis for axis, group in enumerate(block.groups) if group]
    rest = [axis for axis, group in enumerate(block.groups) if not group]
    dims = tuple((block.groups[axis] or "", block.shape[axis]) for axis in owned)
    return Units(dims, view.permute(*rest, *owned).reshape(-1, prod(n for _, n in dims)))


def _blocks(
    point: Point, shape: tuple[int, ...], groups: Mapping[str, BoundGroup]
) -> tuple[Block, ...]:
    """Return the blocks of a value of any batch size."""
    axes = _any_batch(point.axes, groups)
    spec = Spec(
        tensors={_VALUE: axes},
        groups={
            name: Declaration(size=groups[name].size, one_sided=True)
            for name in dict.fromkeys(entry_names(axes))
        },
    )
    try:
        bound = bind(spec, {_VALUE: TensorInfo(_VALUE, shape, torch.float32)})
    except SpecError as error:
        raise UserCodeError(
            f"what {point.operator} is given has the shape {shape}",
            detail=error.problems[0].what,
            hint="a batch needs the shape of the inputs that the model was traced with, "
            "but for its first axis",
        ) from error
    return bound.tensors[0].blocks


def _any_batch(entry: Entry, groups: Container[str]) -> Entry:
    """Return axes without the sizes that depend on the batch, and without groups that are gone.

    An axis that is split is not that of the batch: its parts keep their sizes.
    """
    split = entry.axis if isinstance(entry, Split) else None

    def any_batch(axes: Axes) -> Axes:
        return tuple(
            axis if k == split and isinstance(axis, Fixed) else _open(axis, groups)
            for k, axis in enumerate(axes)
        )

    return with_axes(entry, any_batch)


def _open(axis: AxisExpr, groups: Container[str]) -> AxisExpr:
    """Return an axis whose size may be another: that of the axis, or of the first fixed factor."""

    def kept(leaf: Named | Fixed) -> AxisExpr:
        return Fixed() if isinstance(leaf, Named) and leaf.name not in groups else leaf

    opened = rewritten(axis, kept)
    if isinstance(opened, Fixed):
        return Fixed()
    if not isinstance(opened, Product) or any(leaf == Fixed() for leaf in leaves(opened)):
        return opened
    first = next((k for k, part in enumerate(opened.factors) if isinstance(part, Fixed)), None)
    return Product(tuple(Fixed() if k == first else part for k, part in enumerate(opened.factors)))
