"""Which tensors folding norms changes, and how: decided by names and groups, before any is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.axis_sides import Side, axis_of, axis_sides
from rebasin_cli.spec.binding.bound import BoundGroup, BoundNorm, BoundSpec
from rebasin_cli.spec.binding.bound_norms import bias_of
from rebasin_cli.spec.language.model import KEEPING_MEAN, ORTHOGONAL, PERMUTATION
from rebasin_cli.tensors.blocks import Block, BoundTensor

MANY = 6  # tensors of one group: two layers that write and read, and what is before and behind


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
        """Return the axes of a tensor that read: a reader's axis on a stream, else by position."""
        tensor = self.tensors[name]
        on = {axis_of(tensor, d) for b in tensor.blocks for d in b.dims if d.group in self.streams}
        if name in self.readers and len(on) == 1:
            return frozenset(axis for axis in on if axis is not None)
        sides = axis_sides(tensor, self.bound.transposed)
        return frozenset(axis for axis, found in enumerate(sides) if Side.READ in found)

    def _places(self, reader: str, norm: BoundNorm) -> int:
        """Return at how many places a weight with a bias reads each unit: those of the kernel."""
        written = self.tensors.get(bias_of(reader))
        if written is None:  # an adapter's factor, which takes up no bias
            return 1
        gain = self.tensors[norm.gain]
        return prod(self.tensors[reader].shape) // prod(written.shape) // prod(gain.shape)

    def check(self) -> None:
        """Raise SpecError where a norm has no reader, or a reader of a stream no norm."""
        for norm in self.norms.values():
            if not norm.readers and not norm.writers:
                raise SpecError(
                    f"no tensor reads the norm {norm.gain!r}",
                    hint="`norms:` of the spec names them; a model without its head has none",
                )
        for name, norm in self.readers.items():
            if norm.bias and not self.keeps_bias(norm) and self._places(name, norm) > 1:
                raise SpecError(
                    f"{name!r} reads several places at once of the norm {norm.gain!r}",
                    detail="at the edge it meets zeros, to which the norm added no bias",
                    hint="leave this norm out of `norms:`, and its units to permutations",
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
