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
from rebasin_cli.symmetry.map_sweeps import MapMatching


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


SelectedOrError = Selected | RebasinError
"""What became of trying to align one model: why nothing did, if others go on."""


def run_select(plan: SelectPlan, progress: Progress) -> Iterator[Any]:
    """Yield what was chosen for each model, and then the outcomes of that alignment."""
    tried = {model.path: _tried(plan, model, progress) for model in plan.models}
    chosen = in_one_class(tried)
    selected = [one for one in chosen.values() if isinstance(one, Selected)]
    yield from selected
    if plan.permuting is None or any(_is_rotated(one) for one in selected):
        yield from _write_rotated(plan, chosen, progress)
        return
    yield from _write_permuted(plan, chosen, progress)


def _is_rotated(selected: Selected) -> bool:
    return selected.best.candidate.symmetry == ORTHOGONAL


def _tried(plan: SelectPlan, model: Checkpoint, progress: Progress) -> SelectedOrError:
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


def in_one_class(tried: Mapping[Path, SelectedOrError]) -> dict[Path, SelectedOrError]:
    """Return what was tried of models with the best of that class of maps which is best for all.

    Only of one class they come to lie in one basin. It is that whose best midpoints lose least, in
    the mean over all models; of equals, permutations.
    """
    judged = [one.judged for one in tried.values() if isinstance(one, Selected)]
    kinds = sorted({one.candidate.symmetry for each in judged for one in each}, reverse=True)
    losses = {kind: mean(_loss(_least(each, kind)) for each in judged) for kind in kinds}
    best = min(kinds, key=losses.__getitem__, default="")
    return {path: _within(one, best) for path, one in tried.items()}


def _within(tried: SelectedOrError, symmetry: str) -> SelectedOrError:
    """Return what was tried of a model with the best of one class; its failure if there is none."""
    if isinstance(tried, RebasinError):
        return tried
    best = _least(tried.judged, symmetry)
    return best.failure or replace(tried, best=best)


def _least(judged: Sequence[TriedCandidate], kind: str) -> TriedCandidate:
    """Return the candidate of a class with the least loss, the first of equals; of failures too."""
    return min((one for one in judged if one.candidate.symmetry == kind), key=_loss)


def _write_permuted(
    plan: SelectPlan, chosen: Mapping[Path, SelectedOrError], progress: Progress
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
    plan: SelectPlan, chosen: Mapping[Path, SelectedOrError], progress: Progress
) -> Iterator[Any]:
    assert plan.rotating is not None, "orthogonal maps were tried"

    def found(path: Path) -> MapMatching:
        maps = _found(chosen[path])
        assert isinstance(maps, MapMatching), "the class is that of orthogonal maps"
        return maps

    yield from run_orthogonal(plan.rotating, progress, known=found)


def _found(chosen: SelectedOrError) -> FoundMaps:
    """Return the maps that were chosen for a model. Raises what failed instead."""
    if isinstance(chosen, RebasinError):
        raise chosen
    assert chosen.best.found is not None, "the best was made"
    return chosen.best.found
