"""The empirical Fisher of weights by blocks: as many passes of the data as memory asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rebasin_cli.commands.prune.fisher.block_inverse import (
    PIECE,
    BlockCut,
    add_gradients,
    invert_blocks,
)
from rebasin_cli.commands.prune.fisher.example_gradients import Gradients
from rebasin_cli.errors import MachineError, UserCodeError

# Yields the gradients of some tensors, (examples, *shape), over all examples of the data.
GradientPass = Callable[[Sequence[str]], Iterator[Gradients]]


@dataclass(frozen=True)
class RowRange:
    """Rows of a weight whose blocks are held at the same time."""

    name: str
    begin: int
    end: int

    def of(self, weight: Tensor) -> Tensor:
        """Return a view of these rows, (rows, length)."""
        return weight.view(len(weight), -1)[self.begin : self.end]

    def blocks(self, cut: BlockCut, values: Tensor) -> Tensor:
        """Return the blocks, (blocks, width), of values of the whole weight's shape."""
        return self.blocks_of_each(cut, values[None])[0]

    def blocks_of_each(self, cut: BlockCut, values: Tensor) -> Tensor:
        """Return the blocks, (n, blocks, width), of n values of the whole weight's shape."""
        by_row = values.reshape(len(values), cut.rows, cut.length)
        return cut.blocks(by_row[:, self.begin : self.end])


def plan_passes(cuts: Mapping[str, BlockCut], room: int) -> list[list[RowRange]]:
    """Return which rows are looked at in each pass of the data, in bytes of blocks at a time.

    Raises MachineError if a single row's blocks are larger.
    """
    passes: list[list[RowRange]] = [[]]
    left = room
    for name, cut in cuts.items():
        if cut.nbytes > room:
            raise MachineError(
                "not enough memory",
                detail=f"{name!r}: blocks of {cut.width} weights take {cut.nbytes / 1e9:.2f} GB a "
                f"row, {room / 1e9:.2f} GB may be used",
                hint="a smaller --block-size, or raise --max-memory",
            )
        begin = 0
        while begin < cut.rows:
            count = min(left // cut.nbytes, cut.rows - begin)
            if count:
                passes[-1].append(RowRange(name, begin, begin + count))
                begin, left = begin + count, left - count * cut.nbytes
            else:
                passes.append([])
                left = room
    return passes


class FisherBlocks:
    """The blocks of the Fisher matrix, inverted; those of one pass of the data are held at a time.

    room: bytes for blocks. damping: lambda, as a share of the mean of the diagonal.
    """

    def __init__(
        self, cuts: Mapping[str, BlockCut], gradients: GradientPass, *, room: int, damping: float
    ) -> None:
        self.cuts, self._gradients, self._share = cuts, gradients, damping
        self._passes = plan_passes(cuts, room)

    def show_inverses(self, see: Callable[[RowRange, Tensor], None]) -> None:
        """Show all inverse blocks, (blocks, width, width), range by range of rows.

        Where one pass does it is gone through once, however often this is asked for; else what was
        shown is dropped before the next pass.
        """
        if len(self._passes) == 1:
            for rows, inverse in self._only[0].items():
                see(rows, inverse)
            return
        damping = self.damping  # another pass, before blocks are held
        for ranges in self._passes:
            blocks = _inverted(self._means(ranges), damping)
            while blocks:
                see(*blocks.popitem())

    @cached_property
    def damping(self) -> float:
        """Lambda. Raises UserCodeError where no gradient reaches the weights."""
        if len(self._passes) == 1:
            return self._only[1]
        return self._lambda(_trace(self._gradients, [*self.cuts]))

    @cached_property
    def _only(self) -> tuple[Mapping[RowRange, Tensor], float]:
        means = self._means(self._passes[0])
        trace = sum(float(m.diagonal(dim1=1, dim2=2).sum()) for m in means.values())
        damping = self._lambda(trace)
        return _inverted(means, damping), damping

    def _lambda(self, trace: float) -> float:
        return (
            self._share * check_reached(trace) / sum(c.rows * c.length for c in self.cuts.values())
        )

    def _means(self, ranges: Sequence[RowRange]) -> dict[RowRange, Tensor]:
        """Return the means of g g' over all examples, for some rows."""
        names = list(dict.fromkeys(rows.name for rows in ranges))
        sums = {rows: self._zeros(rows) for rows in ranges}
        examples = 0
        for found in self._gradients(names):
            examples += len(found[names[0]])
            for rows, blocks in sums.items():
                cut = self.cuts[rows.name]
                add_gradients(blocks, rows.blocks_of_each(cut, found[rows.name]))
        return {rows: blocks.div_(examples) for rows, blocks in sums.items()}

    def _zeros(self, rows: RowRange) -> Tensor:
        cut = self.cuts[rows.name]
        count = (rows.end - rows.begin) * cut.per_row
        return torch.zeros(count, cut.width, cut.width, dtype=torch.float64)


def _inverted(sums: dict[RowRange, Tensor], damping: float) -> dict[RowRange, Tensor]:
    """Put the inverses into the place of some blocks, and return these."""
    for blocks in sums.values():
        invert_blocks(blocks, damping)
    return sums


def _trace(gradients: GradientPass, names: Sequence[str]) -> float:
    """Return the trace of the Fisher matrix: the mean of all g^2, summed over the weights."""
    total, examples = 0.0, 0
    for found in gradients(names):
        examples += len(found[names[0]])
        parts = (part for rows in found.values() for part in torch.split(rows.flatten(), PIECE))
        total += sum(float(part.double().square().sum()) for part in parts)
    return total / examples


def diagonals(gradients: GradientPass, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the means of g^2 by name, float64, of each weight's shape."""
    sums: dict[str, Tensor] = {}
    examples = 0
    for found in gradients(names):
        examples += len(found[names[0]])
        for name, rows in found.items():
            squares = rows.double().square().sum(0)
            sums[name] = sums[name].add_(squares) if name in sums else squares
    return {name: total / examples for name, total in sums.items()}


def check_reached(total: float) -> float:
    """Return the trace of a Fisher matrix. Raises UserCodeError if it is no positive number."""
    if not 0 < total < float("inf"):
        raise UserCodeError(
            "no finite gradient reaches the weights"
            if total
            else "no gradient reaches the weights",
            hint="look at the data, and at what the model does with its inputs",
        )
    return total
