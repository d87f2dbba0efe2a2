"""What the midpoints of both classes of maps answer on data: where there is some, it decides."""

from __future__ import annotations

from itertools import islice

from rebasin_cli.alignment.match import match_models
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.auto.plan import AutoPlan
from rebasin_cli.commands.align.midpoint_judge import FEW, MidpointJudge, loss_by_answers
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.network.built import build_network
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.null_model import FoldedPair


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
    ends, network = (reference, model), code.network
    data = data_of(code, ends, machine, progress)
    batches = list(islice(data, FEW))
    judge = MidpointJudge(
        build_network(network, reference, machine),
        network.windows,
        plan.permuting.request.selection.selects,
        loss_by_answers(network, ends, machine, batches),
        data.name,
    )
    return {kind: judge.loss(*pair) for kind, pair in pairs.items()}


def _permuted(plan: AutoPlan, model: Checkpoint, progress: Progress) -> FoldedPair:
    permuting = plan.permuting
    reference, choice, search = permuting.reference, permuting.choice, permuting.request.search
    found = match_models(reference, model, choice, permuting.machine, search, progress=progress)
    return reference, Permuted(model, choice.bound.tensors, found.permutations)


def _rotated(plan: AutoPlan, model: Checkpoint, rotation: GroupMaps) -> FoldedPair:
    folding = plan.rotating.problem.folding
    moved = Carried(FoldedNorms(model, folding), folding.moving.tensors, rotation)
    return FoldedNorms(plan.permuting.reference, folding), moved
