"""The plan of `rebasin barrier --series`: the pairs of models, and how each is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from rebasin_cli.commands.barrier.command import BarrierRequest
from rebasin_cli.commands.barrier.plan import BarrierPlan, plan_barrier
from rebasin_cli.commands.barrier.series.numbered_pairs import NumberedPair, Pairing, pair_models
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.files.places import OutputPlace, files_of
from rebasin_cli.folding.rotation_problem import rotates
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.pictures.drawing import plan_drawing
from rebasin_cli.tensors import infos

EACH, LAST = "each", "last"
PLACEHOLDER = "{number}"  # in --model-args: the number of the pair


@dataclass(frozen=True)
class SeriesPair:
    """Two models of a series.

    place: where they are on its axis. elements: how many numbers the tensors of the first hold.
    """

    place: float
    elements: int
    plan: BarrierPlan

    def describe(self) -> dict[str, Any]:
        """Return the pair as JSON values."""
        return {"place": self.place, "elements": self.elements, **self.plan.describe()}


@dataclass(frozen=True)
class SeriesPlan:
    """All that `run_series` needs. axis: what the places of the pairs are, in a word.

    pair_by: what made the pairs. align_by: whether `each` pair is aligned by itself or all of them
    as the `last` is. wide: whether the models of different pairs have different sizes.
    """

    pairs: tuple[SeriesPair, ...]
    axis: str
    pair_by: str
    align_by: str
    wide: bool
    picture: OutputPlace | None
    resume: Path | None

    @property
    def last(self) -> BarrierPlan:
        """The plan of the last pair."""
        return self.pairs[-1].plan

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "barrier",
            "series": [pair.describe() for pair in self.pairs],
            "axis": self.axis,
            "pair_by": self.pair_by,
            "align_by": self.align_by,
            "plot": str(self.picture.path) if self.picture else None,
            "resume": str(self.resume) if self.resume else None,
            "memory": max(pair.describe()["memory"] for pair in self.pairs),
        }


def plan_series(request: BarrierRequest) -> SeriesPlan:
    """Return what judging many pairs of models will do; nothing is read but headers.

    Raises UsageError, or what planning one of the pairs does.
    """
    align_by = request.align_by or EACH
    _check_series(request, align_by)
    pairing = pair_models(request.models, request.pair_by)
    plans = [_plan_pair(request, pair) for pair in pairing.pairs]
    if align_by == LAST:
        plans = [*_aligned_as(plans[-1], plans[:-1]), plans[-1]]
    sizes = [_elements(plan) for plan in plans]
    axis, places = _axis(pairing, sizes)
    inputs = [file for plan in plans for model in plan.models for file in files_of(model)]
    picture = plan_drawing(request.picture, request.output, inputs) if request.picture else None
    found = zip(places, sizes, plans, strict=True)
    return SeriesPlan(
        pairs=tuple(SeriesPair(*pair) for pair in found),
        axis=axis,
        pair_by=pairing.by,
        align_by=align_by,
        wide=len(set(sizes)) > 1,
        picture=picture,
        resume=request.resume,
    )


def _check_series(request: BarrierRequest, align_by: str) -> None:
    """Raise UsageError for what no pair has to be looked at to see."""
    if align_by not in (EACH, LAST):
        hint = suggest(align_by, (EACH, LAST)) or f"{EACH}, {LAST}"
        raise UsageError(f"--align-by {align_by}: no such way to align a series", hint=hint)
    for wanted, flag in ((request.plane, "--plane"), (request.diagnose, "--diagnose")):
        if wanted:
            raise UsageError(f"{flag} does not go with --series", hint="leave out one of the two")
    if align_by == LAST and not request.align:
        raise UsageError("--align-by says how models are aligned, and --no-align does not")
    if align_by == LAST and rotates(request.symmetry, tie=request.tie):
        raise UsageError(
            "--align-by last carries permutations over, not the maps of --symmetry orthogonal",
            hint="--align-by each",
        )


def _plan_pair(request: BarrierRequest, pair: NumberedPair) -> BarrierPlan:
    tracing = _numbered(request.tracing, pair)
    return plan_barrier(replace(request, models=pair.paths, picture=None, tracing=tracing))


def _numbered(tracing: Tracing, pair: NumberedPair) -> Tracing:
    """Return how the model of a pair is built: `{number}` in its arguments is the pair's."""
    if PLACEHOLDER not in tracing.arguments.values():
        return tracing
    if pair.number is None:
        raise UsageError(
            f"--model-args has {PLACEHOLDER}, and the names of the models have no number",
            hint="--pair-by number or folder pairs models whose names have one",
        )
    number = int(pair.number) if pair.number.is_integer() else pair.number
    given: Mapping[str, object] = {
        name: number if value == PLACEHOLDER else value for name, value in tracing.arguments.items()
    }
    return replace(tracing, arguments=given)


def _aligned_as(leader: BarrierPlan, plans: Sequence[BarrierPlan]) -> list[BarrierPlan]:
    """Return plans whose models are aligned as those of another are."""
    shapes = {name: info.shape for name, info in infos(leader.models[0]).items()}
    for first in (plan.models[0] for plan in plans):
        here = {name: info.shape for name, info in infos(first).items()}
        if here != shapes:
            differing = sorted(n for n in {*here, *shapes} if here.get(n) != shapes.get(n))
            raise UsageError(
                f"--align-by last: the last pair, {leader.models[0].path} and its partner, has "
                f"other tensors than {first.path}, as {differing[0]!r}",
                hint="--align-by each",
            )
    return [replace(plan, aligned_by=leader.models) for plan in plans]


def _elements(plan: BarrierPlan) -> int:
    known = infos(plan.models[0]).values()
    return sum(prod(info.shape) for info in known if info.floating)


def _axis(pairing: Pairing, sizes: Sequence[int]) -> tuple[str, list[float]]:
    """Return the horizontal axis of the picture of a series: its label, and the value of each pair.

    The number in their names; where there is none, the size of the models, or else a count.
    """
    numbers = [pair.number for pair in pairing.pairs if pair.number is not None]
    if numbers:
        return pairing.pairs[0].word or "number", numbers
    if len(set(sizes)) == len(sizes) > 1:
        return "elements", list(map(float, sizes))
    return "pair", [float(k) for k in range(1, len(sizes) + 1)]
