"""What is known of a traced model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind, one_sided_groups
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.compression.compress import compress
from rebasin_cli.spec.language.model import PERMUTATION, ROTARY, Declaration, Entry, Spec
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tracer.classes.signs.signed_units import sign_groups, without_signs
from rebasin_cli.tracer.derivation.derive import FixedAxis
from rebasin_cli.tracer.derivation.unit_symmetry import Symmetry
from rebasin_cli.tracer.points.points import Points
from rebasin_cli.tracer.proof.culprits import declared_one_sided, drop_groups
from rebasin_cli.tracer.proof.proof import Proof
from rebasin_cli.tracer.proof.unproved import Doubt
from rebasin_cli.tracer.recording.record import Record
from rebasin_cli.wording import count


@dataclass(frozen=True)
class Trace:
    """The symmetry of a model, and how well it is founded.

    spec: with templates where layers repeat. explicit: one entry for each tensor. infos: of all
    tensors in the state dict. ties: alias -> the name of the same tensor.
    fixed: what does not move, with reasons. unused: parameters that no output depends on; they
    stay, but for `followers`.
    returned: what the axes of the outputs are made of. points: where the units of the groups that
    were found can be seen at work, in the order of a pass; a group may have been dropped since.
    reasons: group -> why its units can be permuted and not rotated.
    trained: whether a call in training mode counts too. proof: None if there is none. doubt: then
    why. decided: as in `Record`.
    """

    spec: Spec
    explicit: Spec
    bound: BoundSpec
    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]
    fixed: tuple[FixedAxis, ...]
    unused: tuple[str, ...]
    outputs: tuple[str, ...]
    unknown: tuple[str, ...]
    returned: Mapping[str, Entry]
    points: Points
    reasons: Mapping[str, str]
    proof: Proof | None
    doubt: Doubt | None = None
    decided: tuple[str, ...] = ()
    trained: bool = False

    def __repr__(self) -> str:
        proof = "proved" if self.proof else "not proved"
        groups = count(len(self.bound.groups), "group")
        return f"<Trace {self.spec.name}: {groups}, {self.share:.0%} of the values move, {proof}>"

    def with_spec(self, spec: Spec) -> Trace:
        """Return the trace with another spec of the same tensors, an entry for each."""
        return replace(self, spec=spec, explicit=spec, bound=bind(spec, self.infos, ties=self.ties))

    @property
    def followers(self) -> tuple[str, ...]:
        """The unused parameters that move, as those of other members of their list do."""
        moving = {name for t in self.bound.tensors if t.groups for name in t.members}
        return tuple(name for name in self.unused if name in moving)

    @property
    def share(self) -> float:
        """The share of floating elements that some group moves."""
        every = sum(
            info.reals
            for name, info in self.infos.items()
            if info.floating and info.numel > 1 and name not in self.ties
        )
        moved = sum(
            block.numel
            for tensor in self.bound.tensors
            if not self.ties.keys() & set(tensor.members)
            for block in tensor.blocks
            if any(block.groups)
        )
        return moved / every if every else 0.0


def trace_before_proof(found: Symmetry, record_: Record, model: nn.Module) -> Trace:
    """Return what was found in a record, before any proof of it."""
    stored = model.state_dict()
    infos = {
        name: TensorInfo(name, tuple(tensor.shape), tensor.dtype)
        for name, tensor in stored.items()
        if isinstance(tensor, Tensor)
    }
    _check_names(infos)
    ties = _ties(record_)
    spec = found.derived.spec
    spec = declared_one_sided(spec, one_sided_groups(spec, infos, ties=ties))
    return Trace(
        spec=spec,
        explicit=spec,
        bound=bind(spec, infos, ties=ties),
        infos=infos,
        ties=ties,
        fixed=found.derived.fixed,
        unused=found.derived.unused,
        outputs=found.outputs,
        unknown=found.unknown,
        returned=found.derived.outputs,
        points=found.derived.points,
        reasons=found.derived.classes.reasons,
        proof=None,
        decided=record_.decided,
    )


def _check_names(infos: Mapping[str, TensorInfo]) -> None:
    """Raise SpecError for names that a spec would read as something else."""
    if unnamed := [name for name in infos if set("{}[]") & set(name)]:
        raise SpecError(
            f"no spec can name the tensor {unnamed[0]!r}",
            detail=f"braces and brackets stand for indices there ({len(unnamed)} such names)",
            hint="give the module another name in the code, and its tensors with "
            "--rename 'OLD=NEW' if they are stored under this one",
        )


def _ties(found: Record) -> dict[str, str]:
    first: dict[object, str] = {}
    ties = {}
    for name, value in found.tensors.items():
        if value in first:
            ties[name] = first[value]
        else:
            first[value] = name
    return ties


def compress_trace(traced: Trace) -> Trace:
    """Return the trace with its spec written in templates."""
    return replace(traced, spec=compress(traced.explicit, traced.infos, ties=traced.ties))


def without_classes(traced: Trace) -> Trace:
    """Return the trace of permutations alone."""
    turning = [n for n, g in traced.bound.groups.items() if g.maps.startswith(ROTARY)]
    spec = drop_groups(traced.explicit, traced.bound, turning)
    spec = without_signs(spec, sign_groups(spec))
    groups = {n: replace(declared, maps=PERMUTATION) for n, declared in spec.groups.items()}
    said = {n: declared for n, declared in groups.items() if declared != Declaration()}
    return compress_trace(traced.with_spec(replace(spec, groups=said, norms={})))
