"""Carrying out an alignment in the way whose midpoint loses least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.orthogonal.run import run_orthogonal
from rebasin_cli.commands.align.plan import AlignItem, AlignPlan
from rebasin_cli.commands.align.run import run_align
from rebasin_cli.commands.align.select.candidate_pair import (
    CandidatePair,
    FoundMaps,
    TriedCandidate,
)
from rebasin_cli.commands.align.select.data_parts import split_data
from rebasin_cli.commands.align.select.plan import SelectPlan
from rebasin_cli.errors import RebasinError
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import MapMatching


@dataclass(frozen=True)
class Selected:
    """The way in which a model is aligned, and all that were tried.

    by_targets: whether midpoints were judged by targets in the data, or by what both models
    answer. batches: how many they were judged on. apart: whether none was made on these.
    """

    model: Path
    best: TriedCandidate
    judged: tuple[TriedCandidate, ...]
    by_targets: bool
    batches: int
    apart: bool
    seconds: float


def run_select(plan: SelectPlan, progress: Progress) -> Iterator[Any]:
    """Yield what was chosen for each model, and then the outcomes of that alignment.

    One class of maps for all models: only then they come to lie in one basin.
    """
    tried = {model.path: _tried(plan, model, progress) for model in plan.models}
    good = [one for one in tried.values() if isinstance(one, Selected)]
    symmetry = _symmetry(plan, good)
    chosen = {path: _within(one, symmetry) for path, one in tried.items()}
    yield from (one for one in chosen.values() if isinstance(one, Selected))
    if symmetry == ORTHOGONAL:
        yield from _write_rotated(plan, chosen, progress)
        return
    yield from _write_permuted(plan, chosen, progress)


def _tried(plan: SelectPlan, model: Checkpoint, progress: Progress) -> Selected | RebasinError:
    """Return the best of all candidates of a model; why there is none, if others go on."""
    began = perf_counter()
    try:
        batches = data_of(plan.code, (plan.reference, model), plan.machine, progress)
        parts = split_data(batches, plan.request.learning.held_out)
        pair = CandidatePair(plan, model, parts, progress)
        judged = tuple(pair.judged())
        best, by_targets = _best(judged), pair.by_targets
    except RebasinError as error:
        if len(plan.request.models) == 2:
            raise
        return error
    seconds = perf_counter() - began
    return Selected(
        model.path, best, judged, by_targets, len(parts.judged_on), parts.apart, seconds
    )


def _best(judged: Sequence[TriedCandidate]) -> TriedCandidate:
    """Return the candidate of the least loss, the first of equals. Raises where all failed."""
    best = min(judged, key=_loss)
    if best.failure is not None:
        raise best.failure
    return best


def _loss(judged: TriedCandidate) -> float:
    return float("inf") if judged.loss is None else judged.loss


def _symmetry(plan: SelectPlan, tried: Sequence[Selected]) -> str:
    """Return the class of maps whose best midpoints lose least, the mean over all models."""
    kinds = sorted({candidate.symmetry for candidate in plan.candidates}, reverse=True)
    losses = {kind: [_loss(_least(one.judged, kind)) for one in tried] for kind in kinds}
    return min(kinds, key=lambda kind: mean(losses[kind] or [0.0]))


def _least(judged: Sequence[TriedCandidate], kind: str) -> TriedCandidate:
    """Return the candidate of a class with the least loss, the first of equals; of failures too."""
    return min((one for one in judged if one.candidate.symmetry == kind), key=_loss)


def _within(tried: Selected | RebasinError, symmetry: str) -> Selected | RebasinError:
    """Return what was tried of a model with the best of one class; its failure if there is none."""
    if isinstance(tried, RebasinError):
        return tried
    best = _least(tried.judged, symmetry)
    return best.failure or replace(tried, best=best)


def _write_permuted(
    plan: SelectPlan, chosen: Mapping[Path, Selected | RebasinError], progress: Progress
) -> Iterator[Any]:
    assert plan.permuting is not None, "permutations were tried"

    def found(align: AlignPlan, item: AlignItem, told: Progress) -> Matching:
        maps = _found(chosen[item.model.path])
        assert isinstance(maps, Matching), "the class is that of permutations"
        return maps

    for outcome in run_align(plan.permuting, progress, method=found):
        if plan.rotating is not None and isinstance(outcome, Aligned):
            # The advice to rotate would be against what was just chosen.
            yield replace(outcome, rotatable=False)
            continue
        yield outcome


def _write_rotated(
    plan: SelectPlan, chosen: Mapping[Path, Selected | RebasinError], progress: Progress
) -> Iterator[Any]:
    assert plan.rotating is not None, "orthogonal maps were tried"

    def found(path: Path) -> MapMatching:
        maps = _found(chosen[path])
        assert isinstance(maps, MapMatching), "the class is that of orthogonal maps"
        return maps

    yield from run_orthogonal(plan.rotating, progress, known=found)


def _found(chosen: Selected | RebasinError) -> FoundMaps:
    """Return the maps that were chosen for a model. Raises what failed instead."""
    if isinstance(chosen, RebasinError):
        raise chosen
    assert chosen.best.found is not None, "the best was made"
    return chosen.best.found
