"""Proof of classes by running: fold the norms, map every group at random, compare the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import (
    INTERLEAVED,
    PERMUTATION,
    ROTARY,
    Declaration,
    Spec,
)
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory, TensorInfo
from rebasin_cli.tensors.compare import ACCEPTED
from rebasin_cli.tracer.classes.findings import ClassFindings
from rebasin_cli.tracer.classes.rotary_axes import RotaryAxis, held_axes, with_rotary
from rebasin_cli.tracer.classes.signs.signed_units import with_signs
from rebasin_cli.tracer.proof.culprits import find_by_halving
from rebasin_cli.tracer.proof.proof import Trial

LEAST = 1e-9  # of the outputs' scale: sums of products in another order, through all layers
ROUNDING = 100.0  # times what permuting does to outputs: norms and tables in float32
NOT_KEPT = "rotating it changes the outputs"


@dataclass(frozen=True)
class TracedTensors:
    """What a spec is bound to."""

    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]

    def bound(self, spec: Spec) -> BoundSpec:
        return bind(spec, self.infos, ties=self.ties)


def prove_classes(
    spec: Spec, found: ClassFindings, tensors: TracedTensors, trial: Trial, rounding: float
) -> tuple[Spec, Mapping[str, str]]:
    """Return a spec with those classes under which the outputs stay, and reasons for the others.

    rounding: by how much permutations moved the outputs; models that compute their norms in
    float32 keep no function better than that.
    """
    limit = min(max(LEAST, ROUNDING * rounding), ACCEPTED)
    test = _ClassTest(spec, tensors, trial, limit)
    present = tensors.bound(spec).groups
    gone = {n: "" for n in found.classes if n not in present or present[n].fixed}
    kept = _held(replace(found.without(gone), rotary=()).in_spec(spec), test)
    kept = _kept(kept, test)
    turned = _turned(held_axes(spec, found.rotary), test)
    classes = {**kept.classes, **{axis.group: maps for axis, maps in turned.items()}}
    kept = replace(kept, classes=classes, rotary=tuple(turned))
    return with_classes(spec, kept), kept.reasons


def _kept(found: ClassFindings, test: _ClassTest) -> ClassFindings:
    """Return the findings without groups whose class breaks the function.

    A stream whose mean counts elsewhere than in its norms, as in a product of two activations,
    cannot be centred; a rotation that keeps the mean is allowed all the same.
    """
    bad = test.culprits(found)
    found = found.uncentred(bad)
    return found.without(dict.fromkeys(test.culprits(found) if bad else (), NOT_KEPT))


def _turned(axes: Sequence[RotaryAxis], test: _ClassTest) -> dict[RotaryAxis, str]:
    """Return the axes whose pairs may turn, with how they are paired."""
    found: dict[RotaryAxis, str] = {}
    for maps in (ROTARY, INTERLEAVED):
        left = tuple(axis for axis in axes if axis not in found)
        # Nearly always all are of one kind: the ends tell, without a search among the others.
        if any(_turns((axis,), maps, test) for axis in dict.fromkeys((*left[:1], *left[-1:]))):
            bad = test.culprits(_rotary(left, maps))
            found |= {axis: maps for axis in left if axis.group not in bad}
    return {axis: found[axis] for axis in axes if axis in found}


def _turns(axes: tuple[RotaryAxis, ...], maps: str, test: _ClassTest) -> bool:
    return not test.culprits(_rotary(axes, maps))


def _rotary(axes: tuple[RotaryAxis, ...], maps: str) -> ClassFindings:
    return ClassFindings({axis.group: maps for axis in axes}, rotary=axes)


def _held(found: ClassFindings, test: _ClassTest) -> ClassFindings:
    """Return the findings without groups that the names of their tensors hold to permutations."""
    scaled = test.plan(found).scaled
    held = {g: f"{scaled[g]} may be a gain by its name" for g in found.classes if g in scaled}
    return found.without(held)


@dataclass(frozen=True)
class _ClassTest:
    """A model on which classes are tried."""

    spec: Spec
    tensors: TracedTensors
    trial: Trial
    limit: float

    def plan(self, found: ClassFindings) -> FoldPlan:
        bound = self.tensors.bound(with_classes(self.spec, found))
        return FoldPlan(bound, self.tensors.ties)

    def culprits(self, found: ClassFindings) -> list[str]:
        """Return the groups whose class breaks the function."""

        def breaks(names: Sequence[str]) -> bool:
            kept = set(names)
            gone = {name: "" for name in found.classes if name not in kept}
            return self._breaks(found.without(gone))

        return find_by_halving(list(found.classes), breaks)

    def _breaks(self, found: ClassFindings) -> bool:
        try:
            plan = self.plan(found)
            plan.check()
            if any(plan.classes[name] == PERMUTATION for name in found.classes):
                return True  # a gain that no weight takes over, as of a norm of queries and keys
            return not class_drift(plan, self.tensors, self.trial) <= self.limit
        except SpecError:
            return True


def class_drift(plan: FoldPlan, tensors: TracedTensors, trial: Trial) -> float:
    """Return by how much outputs move when norms are folded and all classes map at random.

    Relative to their scale. plan: how norms fold under the spec that is tried.
    """
    base = _level(plan, trial)
    source = InMemory({n: base.get(n, trial.tensor(n)) for n in tensors.infos})
    bound, classes = plan.moving, plan.classes
    groups = [g for g in bound.groups.values() if classes[g.name] != PERMUTATION]
    maps = draw_maps(groups, classes, torch.Generator().manual_seed(1))
    moved = Carried(FoldedNorms(source, plan), bound.tensors, maps)
    names = [n for n in plan.tensors if n not in tensors.ties]
    return trial.drift(base, {n: moved.load(n) for n in names})


def _level(plan: FoldPlan, trial: Trial) -> dict[str, Tensor]:
    """Return the gains into heads that are embeddings, all units alike: those fold exactly.

    Of others no multiple of the embedding is the head, and where the embedding is centred, no bias
    with a mean does what it did; that is no matter of what may be rotated.
    """
    tied = [norm for norm in plan.norms.values() if norm.tied]
    biases = {norm.bias: trial.tensor(norm.bias) for norm in tied if norm.bias}
    centred = {name: bias - bias.mean() for name, bias in biases.items()}
    return centred | {n.gain: torch.full_like(trial.tensor(n.gain), 0.5) for n in tied}


def with_classes(spec: Spec, found: ClassFindings) -> Spec:
    """Return a spec with classes of its groups, and norms that fold."""
    for axis in found.rotary:
        spec = with_rotary(spec, axis)
    for units in found.signs:
        spec = with_signs(spec, units)
    groups = dict(spec.groups)
    for name, maps in found.classes.items():
        declared = groups.get(name, Declaration())
        still = declared.fixed and not maps.startswith(ROTARY)
        groups[name] = replace(declared, maps=maps, fixed=still)
    return replace(spec, groups=groups, norms=dict(found.norms))
