"""Carrying out an alignment by the class of maps that is further above its null value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.alignment.match import match_models
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.auto.plan import AutoPlan
from rebasin_cli.commands.align.midpoint_judge import FEW, MidpointJudge, loss_by_answers
from rebasin_cli.commands.align.orthogonal.run import match_folded, run_orthogonal
from rebasin_cli.commands.align.plan import AlignPlan
from rebasin_cli.commands.align.run import run_align
from rebasin_cli.errors import NotFiniteError, PermutationError
from rebasin_cli.folding.folded_models import check_tied
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.network.built import build_network
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.map_search import MapSettings, match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.null_model import (
    FoldedPair,
    Standing,
    permutation_standing,
    with_null,
)


@dataclass(frozen=True)
class ChosenSymmetry:
    """The class of maps that all models are aligned by.

    standings: of both classes, means over the models. losses: of their midpoints instead, where
    there is data. obstacle: why there was nothing to choose between, if there was not. seconds:
    that comparing took.
    """

    symmetry: str
    standings: Mapping[str, Standing] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    obstacle: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class _Alternatives:
    """What both classes make of one model: standings by weights, or losses by data."""

    rotation: MapMatching
    standings: Mapping[str, Standing] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)


def run_auto(plan: AlignPlan | AutoPlan, progress: Progress) -> Iterator[Any]:
    """Yield what was chosen, if there was a choice, and then the outcomes of that alignment.

    One class for all models: only then they come to lie in one basin.
    """
    if isinstance(plan, AlignPlan):
        yield from run_align(plan, progress)
        return
    began, obstacle = perf_counter(), _obstacle(plan)
    compared = {} if obstacle else _compare_all(plan, progress)
    chosen = _choose(list(compared.values()), obstacle)
    yield replace(chosen, seconds=perf_counter() - began)
    if chosen.symmetry == ORTHOGONAL:
        found = {path: each.rotation for path, each in compared.items()}
        yield from run_orthogonal(plan.rotating, progress, known=found.get)
        return
    for outcome in run_align(plan.permuting, progress):
        # The advice to rotate would be against what was just chosen.
        yield replace(outcome, rotatable=False) if isinstance(outcome, Aligned) else outcome


def _obstacle(plan: AutoPlan) -> str:
    """Return why the stream of a model cannot be rotated; only its tensors tell."""
    try:
        for model in plan.rotating.problem.models:
            check_tied(FoldedNorms(model, plan.rotating.problem.folding), model)
    except PermutationError as error:
        return f"{model.path}: {error.problems[0].what}"
    return ""


def _compare_all(plan: AutoPlan, progress: Progress) -> dict[Path, _Alternatives]:
    """Return what both classes make of each model that can be compared.

    Raises NotFiniteError if none can; of one among several, aligning will tell.
    """
    _, *models = plan.rotating.problem.models
    found, compare = {}, _by_data if plan.code else _by_weights
    for model in models:
        try:
            found[model.path] = compare(plan, model, progress)
        except NotFiniteError:
            if model is models[-1] and not found:
                raise
    return found


def _by_weights(plan: AutoPlan, model: Checkpoint, progress: Progress) -> _Alternatives:
    folding, machine = plan.rotating.problem.folding, plan.permuting.machine
    pair = _folded_pair(plan, model)
    settings = machine.settings(plan.permuting.request.search)
    labels = str(plan.rotating.problem.models[0].path), str(model.path)
    permuted = permutation_standing(pair, folding, settings, labels=labels, progress=progress)
    device = plan.rotating.problem.machine.device
    how = MapSettings(device=device)
    found = match_maps(*pair, folding.moving, folding.classes, settings=how, progress=progress)
    found = with_null(found, pair, folding, seed=machine.seed, device=device, progress=progress)
    rotated = Standing(found.cosine.after, found.null or 0.0)
    return _Alternatives(found, {PERMUTATION: permuted, ORTHOGONAL: rotated})


def _by_data(plan: AutoPlan, model: Checkpoint, progress: Progress) -> _Alternatives:
    found = match_folded(plan.rotating, _folded_pair(plan, model), None, progress)
    losses = midpoint_losses(plan, model, found.maps, progress)
    return _Alternatives(found, losses=losses)


def _folded_pair(plan: AutoPlan, model: Checkpoint) -> FoldedPair:
    folding = plan.rotating.problem.folding
    return FoldedNorms(plan.rotating.problem.models[0], folding), FoldedNorms(model, folding)


def _choose(compared: Sequence[_Alternatives], obstacle: str) -> ChosenSymmetry:
    """Return the class with the least loss or the larger excess; of equals, permutations."""
    if not compared:
        return ChosenSymmetry(PERMUTATION, obstacle=obstacle)
    kinds = (PERMUTATION, ORTHOGONAL)
    if compared[0].losses:
        losses = {kind: mean(each.losses[kind] for each in compared) for kind in kinds}
        return ChosenSymmetry(min(kinds, key=losses.__getitem__), losses=losses)
    standings = {kind: _mean([each.standings[kind] for each in compared]) for kind in kinds}
    return ChosenSymmetry(max(kinds, key=lambda kind: standings[kind].excess), standings)


def _mean(standings: Sequence[Standing]) -> Standing:
    return Standing(mean(s.cosine for s in standings), mean(s.null for s in standings))


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
        PERMUTATION: _permuted_pair(plan, model, progress),
        ORTHOGONAL: _rotated_pair(plan, model, rotation),
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


def _permuted_pair(plan: AutoPlan, model: Checkpoint, progress: Progress) -> FoldedPair:
    permuting = plan.permuting
    reference, choice, search = permuting.reference, permuting.choice, permuting.request.search
    found = match_models(reference, model, choice, permuting.machine, search, progress=progress)
    return reference, Permuted(model, choice.bound.tensors, found.permutations)


def _rotated_pair(plan: AutoPlan, model: Checkpoint, rotation: GroupMaps) -> FoldedPair:
    folding = plan.rotating.problem.folding
    moved = Carried(FoldedNorms(model, folding), folding.moving.tensors, rotation)
    return FoldedNorms(plan.permuting.reference, folding), moved
