"""Norms folded into the weights that read them, so that what they scale may be rotated.

RMSNorm and LayerNorm divide by a length, which no rotation changes, and then multiply each unit by
a gain of its own, which does not commute with one. The gain g and the bias b of a norm belong as
well to the readers R of its output:

    R (g * x + b) + c = (R diag(g)) x + (R b + c)

and LayerNorm, which takes off the mean, is RMSNorm where all that is written has none: with
C = I - 11'/d every writer W becomes C W, and every reader R C (SliceGPT, Ashkboos et al. 2024, 3.2;
arXiv 2506.22712). A gain on what a branch adds belongs to the branch's last weight in the same way:
s * (W x + b) = (diag(s) W) x + s * b. The function stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rebasin_cli.spec.binding.axis_sides import Side, axis_of
from rebasin_cli.spec.binding.bound import BoundNorm
from rebasin_cli.spec.binding.bound_norms import bias_of
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.tensors import Derived, TensorSource

ROWS = 1 << 24  # numbers of an embedding that are taken at once: 128 MB
SMALLEST = 1e-12  # a gain below it hides its unit: nothing can be divided by it


class FoldedNorms(Derived):
    """A model with its norms folded; tensors that change are computed in float64."""

    def __init__(self, source: TensorSource, plan: FoldPlan) -> None:
        super().__init__(source)
        plan.check()
        self._plan = plan

    def load(self, name: str) -> Tensor:
        plan = self._plan
        name = plan.ties.get(name, name)
        if name not in plan.tensors:
            return super().load(name)
        if name in plan.norms:
            return self._gain(plan.norms[name])
        if name in plan.biases:
            return self._norm_bias(plan.biases[name])
        return self._weight(name)

    def _double(self, name: str) -> Tensor:
        """Return a tensor in float64, a copy that may be written to."""
        return super().load(name).to(torch.float64, copy=True).contiguous()

    def _scale(self, norm: BoundNorm) -> Tensor:
        return self._double(norm.gain) + (norm.offset or 0)

    def _gain(self, norm: BoundNorm) -> Tensor:
        scale = self._scale(norm)
        one = self._tied_scale(norm) if norm.tied else torch.ones((), dtype=torch.float64)
        return torch.full_like(scale, float(one) - (norm.offset or 0))

    def _norm_bias(self, norm: BoundNorm) -> Tensor:
        bias = self._double(norm.bias or "")
        if not self._plan.keeps_bias(norm):
            return torch.zeros_like(bias)
        scale = self._scale(norm)
        if not norm.tied and bool((scale.abs() > SMALLEST).all()):
            return bias / scale
        wanted, readers = [], []
        for name in norm.readers:  # the bias that adds the same to all that reads it
            before, after = self._double(name), self._weight(name)
            axis = self._reading_axis(name, norm)
            wanted.append(torch.tensordot(before, bias, ([axis], [0])).flatten())
            readers.append(after.movedim(axis, -1).flatten(0, -2))
        matrix, values = torch.cat(readers), torch.cat(wanted)
        found: Tensor = torch.linalg.lstsq(matrix, values[:, None], driver="gelsd").solution
        return found[:, 0]

    def _reading_axis(self, name: str, norm: BoundNorm) -> int:
        (group,) = self._plan.tensors[norm.gain].groups
        tensor = self._plan.tensors[name]
        dims = {axis_of(tensor, d) for b in tensor.blocks for d in b.dims if d.group == group}
        (axis,) = dims
        return int(axis or 0) - tensor.stacked

    def tied_error(self) -> float | None:
        """Return |H - a E| / |H| of the worst tied head; None if nothing is tied.

        H = E diag(g) C is what the head would have to be, and E what it is stored as.
        """
        tied = [norm for norm in self._plan.norms.values() if norm.tied]
        return max((self._tied_error(norm) for norm in tied), default=None)

    def _tied_error(self, norm: BoundNorm) -> float:
        scale = self._tied_scale(norm)
        apart = [(head - scale * embedding).norm() for embedding, head in self._tied_rows(norm)]
        whole = [head.norm() for _, head in self._tied_rows(norm)]
        return float(torch.stack(apart).norm() / torch.stack(whole).norm())

    def _tied_scale(self, norm: BoundNorm) -> Tensor:
        """Return a = <E, H> / <E, E>: the one place where folding is no identity."""
        sums = [
            torch.stack([(embedding * head).sum(), embedding.square().sum()])
            for embedding, head in self._tied_rows(norm)
        ]
        total = torch.stack(sums).sum(0)
        return total[0] / total[1]

    def _tied_rows(self, norm: BoundNorm) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows of a folded embedding and of the head E diag(g) C, units last."""
        (name,) = norm.readers
        axis, scale = self._reading_axis(name, norm), self._scale(norm)
        stored, folded = (t.movedim(axis, -1) for t in (super().load(name), self._weight(name)))
        pieces = -(-stored.numel() // ROWS)
        both = (torch.tensor_split(each, pieces) for each in (stored, folded))
        for rows, embedding in zip(*both, strict=True):
            head = rows.double() * scale
            if norm.kind == "layer":
                head = head - head.mean(-1, keepdim=True)
            yield embedding, head

    def _weight(self, name: str) -> Tensor:
        plan, result = self._plan, self._double(name)
        norm = plan.readers.get(name)
        for block, dim in plan.axes(name, Side.READ):
            view = block.view(result)
            scale = self._scale(norm) if norm else torch.ones(view.shape[dim])
            view.mul_(_along(scale, dim, view.dim()))
            if norm and norm.kind == "layer" and not plan.keeps_bias(norm):
                view.sub_(view.mean(dim, keepdim=True))
        self._add_bias(name, result)
        scaled = plan.writers.get(name)
        for block, dim in plan.axes(name, Side.WRITE):
            view = block.view(result)
            if scaled:
                view.mul_(_along(self._scale(scaled), dim, view.dim()))
            if plan.streams[block.groups[dim] or ""] == "layer":
                view.sub_(view.mean(dim, keepdim=True))
        return result

    def _add_bias(self, name: str, result: Tensor) -> None:
        """Add R b to the bias of a reader, R as it was: bias first, gain second, mean last."""
        plan = self._plan
        for reader, norm in plan.readers.items():
            if bias_of(reader) != name or norm.bias is None or plan.keeps_bias(norm):
                continue
            weight, bias = self._double(reader), super().load(norm.bias).double()
            share = torch.zeros_like(weight)
            axis = self._reading_axis(reader, norm)
            for block, dim in plan.axes(reader, Side.READ):
                view = block.view(weight) * _along(bias, dim, len(block.dims))
                block.view(share).copy_(view)
            result.add_(share.sum(axis).reshape(result.shape))


def _along(vector: Tensor, dim: int, dims: int) -> Tensor:
    return vector.reshape([-1 if k == dim else 1 for k in range(dims)])
