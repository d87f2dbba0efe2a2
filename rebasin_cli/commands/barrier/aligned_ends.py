"""The models between which points are judged, once they are aligned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.alignment.aligned import Aligned, align_by_weights
from rebasin_cli.commands.barrier.judged_point import Ends, in_memory_if_room
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.folding.rotated_models import rotate_models
from rebasin_cli.folding.rotated_outcome import Rotated
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.options.machine import Machine
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import Derived, TensorInfo, TensorSource

AlignedOutcome = Aligned | Folded | Rotated
Aligning = Generator[AlignedOutcome, None, Ends]
Ordering = Generator[Aligned, None, list[Permutations]]
# Yields what aligning finds, and returns the orders of the units of all models but the first.
OrderSearch = Callable[[BarrierPlan, Choice, Progress], Ordering]


def found_orders(plan: BarrierPlan, choice: Choice, progress: Progress) -> Ordering:
    """Yield what aligning each model of a plan to the first finds, and return the orders."""
    found = []
    for number in range(1, len(plan.models)):
        aligned = _aligned(plan, choice, number, progress)
        yield aligned
        found.append(aligned.matching.permutations)
    return found


def aligned_ends(
    plan: BarrierPlan,
    choice: Choice,
    stored: Ends,
    progress: Progress,
    *,
    orders: OrderSearch = found_orders,
) -> Aligning:
    """Yield what aligning each model to the first finds, and return them all; nothing is written.

    stored: the models as they are. orders: the search for permutations, where it is by those.
    """
    if plan.rotation is not None:
        return (yield from _align_by_rotations(plan, plan.rotation, progress))
    found = yield from orders(plan, choice, progress)
    return Ends(partial(_permuted, plan, choice, stored, found))


def _permuted(
    plan: BarrierPlan,
    choice: Choice,
    stored: Ends,
    found: Sequence[Permutations],
    machine: Machine,
) -> list[TensorSource]:
    """Return the first model as it is, and the others with their units in the orders found."""
    first, *others = stored.at(machine)
    pairs = zip(others, found, strict=True)
    moved = (Permuted(source, choice.bound.tensors, orders) for source, orders in pairs)
    return [first, *(in_memory_if_room(source, plan, machine) for source in moved)]


def _align_by_rotations(
    plan: BarrierPlan, problem: RotationProblem, progress: Progress
) -> Aligning:
    # From the files: in memory are the tensors of the class alone, without a head that is tied.
    weights = [finite_model(model, plan.request.selection) for model in plan.models]
    rotated = rotate_models(problem, weights, progress)
    yield from rotated.found

    def moved(machine: Machine) -> list[TensorSource]:
        sources = map(_AsComputed, rotated.moved(weights))
        return [in_memory_if_room(source, plan, machine) for source in sources]

    return Ends(moved)


class _AsComputed(Derived):
    """Tensors in float32, or wider where they are stored so: folded ones come in float64."""

    def info(self, name: str) -> TensorInfo:
        info = super().info(name)
        wide = torch.promote_types(info.dtype, torch.float32) if info.floating else info.dtype
        return replace(info, dtype=wide)

    def load(self, name: str) -> Tensor:
        return super().load(name).to(self.info(name).dtype)


def _aligned(plan: BarrierPlan, choice: Choice, number: int, progress: Progress) -> Aligned:
    """Return what aligning a model to the first finds."""
    pair = plan.models[0], plan.models[number]
    return align_by_weights(pair, choice, plan.machine, plan.request, progress=progress)


def alignment_digest(plan: BarrierPlan, choice: Choice) -> str:
    """Return a digest of all that decides how the models are aligned."""
    request, search = plan.request, plan.request.search
    heads = sorted(plan.rotation.heads) if plan.rotation else []
    facts: Mapping[str, Any] = {
        "spec": dump(choice.bound.spec),
        "sizes": dict(request.selection.sizes),
        "search": {
            "method": search.method,
            "loss": search.loss,
            "effort": search.effort,
            "order": search.order,
            "starts": [search.start] if search.start else None,
            "restarts": search.restarts,
            "fast": search.fast,
        },
        **({"symmetry": request.symmetry} if plan.rotation else {}),
        **({"untied": heads} if heads else {}),
        **({"by": [model.sha256() for model in plan.aligned_by]} if plan.aligned_by else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
