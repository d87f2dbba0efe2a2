"""What an adapter becomes under a map file: norms folded, units rotated, if that is linear.

A reader R of a norm with the gain g becomes R diag(g) M', so that of R + s B A the factor A becomes
A diag(g) M'; a writer W becomes M W, and B becomes M B. Exact, with the gains of the base model. No
factor can carry what is not linear: the norm's bias b adds (R + s B A) b to what R writes, and
lengths of rows (DoRA) and factors of single units (IA3) are lost in a rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rebasin_cli.adapters.factor_names import Role
from rebasin_cli.adapters.followers import Follower
from rebasin_cli.spec.binding.bound import BoundNorm
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.norm_folding import SMALLEST
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor

_LINEAR = (Role.READS, Role.WRITES, Role.STILL)


@dataclass(frozen=True, kw_only=True)
class FactorPlan(FoldPlan):
    """The fold of a model whose factors are among its tensors. whole: that of the model alone."""

    whole: FoldPlan

    def keeps_bias(self, norm: BoundNorm) -> bool:
        """Return what holds of the model: that factors have no bias changes nothing."""
        return self.whole.keeps_bias(self.whole.norms[norm.gain])


def with_followers(
    plan: FoldPlan, followers: Sequence[Follower], tensors: Sequence[BoundTensor]
) -> FoldPlan:
    """Return a plan in which factors read and write what their weights do."""
    reading = {f.entry.name: f.weight for f in followers if f.entry.role is Role.READS}
    writing = {f.entry.name: f.weight for f in followers if f.entry.role is Role.WRITES}
    norms = tuple(
        replace(
            norm,
            readers=(*norm.readers, *_factors_of(reading, () if norm.tied else norm.readers)),
            writers=(*norm.writers, *_factors_of(writing, norm.writers)),
        )
        for norm in plan.bound.norms
    )
    bound = replace(plan.bound, norms=norms, tensors=(*plan.bound.tensors, *tensors))
    return FactorPlan(bound, plan.ties, whole=plan)


def _factors_of(factors: Mapping[str, str], weights: Sequence[str]) -> list[str]:
    return [name for name, weight in factors.items() if weight in weights]


def unmappable(plan: FoldPlan, followers: Sequence[Follower], base: TensorSource) -> Iterator[str]:
    """Yield why a map file cannot move the tensors of an adapter exactly."""
    tied = {r: norm for norm in plan.norms.values() if norm.tied for r in norm.readers}
    told: set[str] = set()
    for follower in followers:
        name, weight, role = follower.entry.name, follower.weight, follower.entry.role
        norm = plan.readers.get(weight)
        if role not in _LINEAR or "hada_" in name:
            yield f"{name!r}: only the factors of a LoRA follow a rotation, by B <- M B, A <- A M'"
        elif plan.ties.get(weight, weight) in tied and not follower.entry.embedding:
            yield f"{name!r}: its weight is head and embedding at once, and only one is folded"
        elif role is Role.READS and norm and norm.gain not in told and _sheds(plan, norm, base):
            told.add(norm.gain)
            yield (
                f"{name!r}: the bias {norm.bias!r} of the norm before it goes through its weight "
                "into a bias, which the factors of a LoRA have not"
            )


def _sheds(plan: FoldPlan, norm: BoundNorm, base: TensorSource) -> bool:
    """Return whether folding a norm moves its bias, which depends on what reads it."""
    if norm.bias is None:
        return False
    scale = base.load(norm.gain).to(torch.float64) + (norm.offset or 0)
    stays = plan.keeps_bias(norm) and bool((scale.abs() > SMALLEST).all())
    return not stays and bool((base.load(norm.bias) != 0).any())
