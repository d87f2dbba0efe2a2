"""What the midpoints of both classes of maps answer on data: where there is some, it decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from statistics import mean

import torch
from torch import nn

from rebasin_cli.alignment.match import match_models
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.auto.plan import ORTHOGONAL, PERMUTATION, AutoPlan
from rebasin_cli.commands.align.orthogonal.learn import distilled_loss
from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.built import build_network
from rebasin_cli.network.network import UserCode
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.null_model import FoldedPair
from rebasin_cli.tensors import InMemory, TensorSource

FEW = 10  # batches: the losses of the two are tenths of a nat apart


def midpoint_losses(
    plan: AutoPlan, model: Checkpoint, rotation: GroupMaps, progress: Progress
) -> dict[str, float]:
    """Return the loss of the midpoint by permutations and by orthogonal maps, which are found.

    It is the one that `--learn` makes less: against what both models answer, without labels.
    Raises UserCodeError for what the model raises, and for a loss that is no number.
    """
    code, machine, reference = plan.code, plan.permuting.machine, plan.permuting.reference
    if code is None:
        return {}
    pairs = {
        PERMUTATION: _permuted(plan, model, progress),
        ORTHOGONAL: _rotated(plan, model, rotation),
    }
    progress("running the models", 0, 0)
    ends = [build_network(code.network, end, machine) for end in (reference, model)]
    midpoint = build_network(code.network, reference, machine)
    batches = list(islice(data_of(code, (reference, model), machine, progress), FEW))
    losses = {}
    for kind, pair in pairs.items():
        fill(midpoint, _between(*pair), code.network.windows)
        losses[kind] = _loss(ends, midpoint, batches, code)
    return losses


def _permuted(
    plan: AutoPlan, model: Checkpoint, progress: Progress
) -> tuple[TensorSource, TensorSource]:
    permuting = plan.permuting
    reference, choice, search = permuting.reference, permuting.choice, permuting.request.search
    found = match_models(reference, model, choice, permuting.machine, search, progress=progress)
    return reference, Permuted(model, choice.bound.tensors, found.permutations)


def _rotated(plan: AutoPlan, model: Checkpoint, rotation: GroupMaps) -> FoldedPair:
    folding = plan.rotating.problem.folding
    moved = Carried(FoldedNorms(model, folding), folding.moving.tensors, rotation)
    return FoldedNorms(plan.permuting.reference, folding), moved


def _between(first: TensorSource, second: TensorSource) -> InMemory:
    names = [name for name in first.names() if first.info(name).floating]
    return InMemory({n: (first.load(n).double() + second.load(n).double()) / 2 for n in names})


def _loss(
    ends: Sequence[nn.Module], midpoint: nn.Module, batches: Sequence[Batch], code: UserCode
) -> float:
    with torch.no_grad():
        loss = mean(float(distilled_loss(ends, midpoint, batch)) for batch in batches)
    if not math.isfinite(loss):
        raise UserCodeError(f"{code.data.data}: the loss of a midpoint is {loss}")
    return loss
