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

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.axis_sides import Side, axis_of, axis_sides
from rebasin_cli.spec.binding.bound import BoundGroup, BoundNorm, BoundSpec
from rebasin_cli.spec.binding.bound_norms import bias_of
from rebasin_cli.spec.language.model import KEEPING_MEAN, ORTHOGONAL, PERMUTATION
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.blocks import Block, BoundTensor

MANY = 6  # tensors of one group: two layers that write and read, and what is before and behind
ROWS = 1 << 24  # numbers of an embedding that are taken at once: 128 MB
SMALLEST = 1e-12  # a gain below it hides its unit: nothing can be divided by it


@dataclass(frozen=True)
class FoldPlan:
    """Which tensors a fold changes, and how; all by name, of a bound spec with norms.

    ties: alias -> the name of the same storage, which both are folded as.
    """

    bound: BoundSpec
    ties: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def norms(self) -> Mapping[str, BoundNorm]:
        """The norms that fold by their gain: those over a stream with no gain that does not."""
        return {
            norm.gain: norm
            for norm in self.bound.norms
            if not self.tensors[norm.gain].groups & self.scaled.keys()
        }

    @cached_property
    def scaled(self) -> Mapping[str, str]:
        """Group -> a gain over it that no weight reads, so that its units can be permuted only.

        A vector that is no bias by its name is taken for one: of a scale that is left where it is
        the function would break, of a vector that is added only the rotation is lost.
        """
        named = {name for norm in self.bound.norms for name in (norm.gain, norm.bias)}
        return {
            group: name
            for name, tensor in reversed(list(self.tensors.items()))
            if len(tensor.shape) == 1 and not _is_bias(name) and name not in named
            for group in tensor.groups
        }

    @cached_property
    def biases(self) -> Mapping[str, BoundNorm]:
        """The norms by their bias."""
        return {norm.bias: norm for norm in self.norms.values() if norm.bias}

    @cached_property
    def readers(self) -> Mapping[str, BoundNorm]:
        """The norms by the weights that read them."""
        return {r: norm for norm in self.norms.values() if not norm.tied for r in norm.readers}

    @cached_property
    def writers(self) -> Mapping[str, BoundNorm]:
        """The scales by the tensors that write what they scale."""
        return {w: norm for norm in self.norms.values() for w in norm.writers}

    @property
    def classes(self) -> dict[str, str]:
        """Return the solver of each group: what its class becomes under the norms over it."""
        return {name: self._class(group) for name, group in self.bound.groups.items()}

    def _class(self, group: BoundGroup) -> str:
        if group.name in self.scaled:
            return PERMUTATION
        centred = group.maps == ORTHOGONAL and self.streams.get(group.name) == "layer"
        return KEEPING_MEAN if centred else group.maps

    @property
    def moving(self) -> BoundSpec:
        """Return the spec of a folded model: its gains are one number and move with nothing.

        Groups are free where their class is, whatever they are to permutations.
        """
        classes = self.classes
        groups = {
            name: replace(group, fixed=group.fixed and classes[name] == PERMUTATION)
            for name, group in self.bound.groups.items()
        }
        tensors = tuple(t for t in self.bound.tensors if t.members[0] not in self.norms)
        untouched = (*self.bound.untouched, *self.norms)
        return replace(self.bound, groups=groups, tensors=tensors, untouched=untouched)

    @cached_property
    def tensors(self) -> Mapping[str, BoundTensor]:
        """The tensors of the spec by the names of their members."""
        return {name: tensor for tensor in self.bound.tensors for name in tensor.members}

    @cached_property
    def streams(self) -> Mapping[str, str]:
        """Group -> kind of its norms: `layer` if one of them is.

        Raises SpecError for a gain over units of several groups: no one map passes it.
        """
        kinds: dict[str, str] = {}
        for norm in self.norms.values():
            over = sorted(self.tensors[norm.gain].groups)
            if len(over) != 1:
                raise SpecError(
                    f"the gain {norm.gain!r} has units of {len(over)} groups",
                    detail=f"they are {', '.join(over) or 'none'}",
                    hint="a norm that folds has one group; leave this one out of `norms:`",
                )
            (group,) = over
            kinds[group] = "layer" if "layer" in (norm.kind, kinds.get(group)) else "rms"
        return kinds

    def keeps_bias(self, norm: BoundNorm) -> bool:
        """Return whether a norm's bias stays with it, a reader having none to add it to."""
        if norm.bias is None or norm.tied:
            return norm.bias is not None
        return any(bias_of(reader) not in self.tensors for reader in norm.readers)

    def axes(self, name: str, side: Side) -> Iterator[tuple[Block, int]]:
        """Yield the blocks of a member tensor, with each dimension that reads or writes a stream.

        What no norm names as a reader writes: weights, embeddings, positions, and their biases.
        """
        reads = self._reading_axes(name) if name in self.readers else frozenset()
        tensor = self.tensors[name]
        for block in tensor.blocks:
            dims = block.dims[1:] if tensor.stacked else block.dims
            for k, dim in enumerate(dims):
                if dim.group in self.streams:
                    reading = axis_of(tensor, dim) in reads
                    if reading == (side is Side.READ):
                        yield Block(block.offset, dims), k

    def _reading_axes(self, name: str) -> frozenset[int]:
        """Return the axes that read: the one that a reader has on a stream, or by position."""
        tensor = self.tensors[name]
        on = {axis_of(tensor, d) for b in tensor.blocks for d in b.dims if d.group in self.streams}
        if name in self.readers and len(on) == 1:
            return frozenset(axis for axis in on if axis is not None)
        sides = axis_sides(tensor, self.bound.transposed)
        return frozenset(axis for axis, found in enumerate(sides) if Side.READ in found)

    def check(self) -> None:
        """Raise SpecError where a norm has no reader, or a reader of a stream no norm."""
        for norm in self.norms.values():
            if not norm.readers and not norm.writers:
                raise SpecError(
                    f"no tensor reads the norm {norm.gain!r}",
                    hint="`norms:` of the spec names them; a model without its head has none",
                )
        for name, tensor in self.tensors.items():
            told = name in self.readers or _is_bias(name)
            reads = frozenset() if told else self._reading_axes(name)
            for dim in (dim for block in tensor.blocks for dim in block.dims):
                # An embedding, whose other axis is fixed, is no weight that reads.
                alone = len(tensor.groups) == 1
                if dim.group in self.streams and axis_of(tensor, dim) in reads and not alone:
                    raise SpecError(
                        f"{name!r} reads units that are normalised, and no norm has it as a reader",
                        hint="name it under `norms:`",
                    )


def _is_bias(name: str) -> bool:
    last = name.rpartition(".")[2]
    return "bias" in last or last == "beta"


def can_rotate(bound: BoundSpec) -> bool:
    """Return whether a spec lets a stream be rotated, once norms are folded.

    A stream is normalised, or what many tensors write to and read. To rotate values, queries and
    keys inside heads alone brings two models no nearer (BERT).
    """
    plan = FoldPlan(bound)
    classes = plan.classes
    count = Counter(group for tensor in bound.tensors for group in tensor.groups)
    wide = {g.name for g in bound.groups.values() if not g.parents and count[g.name] >= MANY}
    return any(classes[group] != PERMUTATION for group in plan.streams.keys() | wide)


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
