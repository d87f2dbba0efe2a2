"""Carrying out an alignment by the class of maps that is further above its null value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.auto.plan import AutoPlan
from rebasin_cli.commands.align.orthogonal.run import run_orthogonal
from rebasin_cli.commands.align.plan import AlignPlan
from rebasin_cli.commands.align.run import run_align
from rebasin_cli.errors import PermutationError, RebasinError
from rebasin_cli.folding.folded_models import check_tied
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import MapMatching, match_maps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.null_model import Standing, permutation_standing, with_null

PERMUTATION, ORTHOGONAL = "permutation", "orthogonal"


@dataclass(frozen=True)
class ChosenSymmetry:
    """The class of maps that all models are aligned by.

    standings: of both classes, means over the models. obstacle: why there was nothing to choose
    between, if there was not. seconds: that comparing took.
    """

    symmetry: str
    standings: Mapping[str, Standing]
    obstacle: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class _Alternatives:
    """What both classes make of one model."""

    permuted: Standing
    rotation: MapMatching

    @property
    def rotated(self) -> Standing:
        return Standing(self.rotation.cosine.after, self.rotation.null or 0.0)


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
        yield from run_orthogonal(plan.rotating, progress, known=found)
        return
    for outcome in run_align(plan.permuting, progress):
        # The advice to rotate would be against what was just chosen.
        yield replace(outcome, rotatable=False) if isinstance(outcome, Aligned) else outcome


def _obstacle(plan: AutoPlan) -> str:
    """Return why the stream of a model cannot be rotated; only its tensors tell."""
    try:
        for model in plan.rotating.models:
            check_tied(FoldedNorms(model, plan.rotating.folding), model)
    except PermutationError as error:
        return f"{model.path}: {error.problems[0].what}"
    return ""


def _compare_all(plan: AutoPlan, progress: Progress) -> dict[Path, _Alternatives]:
    """Return what both classes make of each model; one of several that fails is told of later."""
    _, *models = plan.rotating.models
    found = {}
    for model in models:
        try:
            found[model.path] = _compare(plan, model, progress)
        except RebasinError:
            if len(models) == 1:
                raise
    return found


def _compare(plan: AutoPlan, model: Checkpoint, progress: Progress) -> _Alternatives:
    folding, machine = plan.rotating.folding, plan.permuting.machine
    pair = FoldedNorms(plan.rotating.models[0], folding), FoldedNorms(model, folding)
    settings = machine.settings(plan.permuting.request.search)
    permuted = permutation_standing(pair, folding, settings, progress=progress)
    rotation = match_maps(*pair, folding.moving, folding.classes, progress=progress)
    rotation = with_null(rotation, pair, folding, seed=machine.seed, progress=progress)
    return _Alternatives(permuted, rotation)


def _choose(compared: Sequence[_Alternatives], obstacle: str) -> ChosenSymmetry:
    """Return the class with the larger excess; permutations, which are exact, of equals."""
    if not compared:
        return ChosenSymmetry(PERMUTATION, {}, obstacle)
    standings = {
        PERMUTATION: _mean([each.permuted for each in compared]),
        ORTHOGONAL: _mean([each.rotated for each in compared]),
    }
    best = max(standings, key=lambda name: standings[name].excess)
    return ChosenSymmetry(best, standings)


def _mean(standings: Sequence[Standing]) -> Standing:
    return Standing(mean(s.cosine for s in standings), mean(s.null for s in standings))
