"""The plan of `rebasin related`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching
from rebasin_cli.alignment.problem import MatchingProblem, open_problem
from rebasin_cli.commands.related.command import RelatedRequest
from rebasin_cli.commands.related.frames import PairFrame, frame_of_orders, frame_of_rotations
from rebasin_cli.commands.related.gauge_free import matrices_of
from rebasin_cli.commands.related.nearness import held_memory
from rebasin_cli.errors import SpecError, UsageError
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.places import OutputPlace, files_of
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.pictures.drawing import plan_drawing
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.symmetry.fold_plan import can_rotate

FEWEST = 2


@dataclass(frozen=True)
class RelatedPlan:
    """All that `run_related` needs.

    orders: how models are permuted. rotations: how they are rotated, where that is more.
    """

    problem: MatchingProblem[Choice]
    orders: PairFrame
    rotations: PairFrame | None
    selection: Selection
    search: Search
    picture: OutputPlace | None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The numbers of the models of each pair."""
        return list(combinations(range(len(self.problem.models)), 2))

    @property
    def names(self) -> list[str]:
        """The tensors that take part and that all models have."""
        first, *others = self.problem.models
        there = [set(other.names()) for other in others]
        chosen = (name for name in first.names() if self.selection.selects(name))
        return [name for name in chosen if all(name in names for names in there)]

    @property
    def matrices(self) -> list[str]:
        """The names of the matrices that are scored."""
        tensors = matrices_of(self.orders.bound).tensors
        return [name for tensor in tensors if tensor.votes for name in tensor.members]

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        matching = describe_matching(
            self.problem.choice, self.problem.machine, self.search, self.problem.models
        )
        held = held_memory(matrices_of(self.orders.bound))
        fits = held <= self.problem.machine.max_memory
        return {
            "command": "related",
            "inputs": describe_inputs(self.problem.models),
            **matching,
            "memory": max(matching["memory"], held if fits else 0),
            "pairs": len(self.pairs),
            "rotations": self.rotations is not None,
            "plot": str(self.picture.path) if self.picture else None,
        }


def plan_related(request: RelatedRequest) -> RelatedPlan:
    """Return what will be compared; nothing is read but headers."""
    check_number(request.models)
    problem = open_problem(request.models, request, done="compared", rotated=True)
    inputs = [file for model in problem.models for file in files_of(model)]
    picture = plan_drawing(request.picture, request.output, inputs) if request.picture else None
    return related_plan(problem, request.selection, picture=picture)


def check_number(models: Sequence[object]) -> None:
    """Raise UsageError for fewer models than make a pair."""
    if len(models) < FEWEST:
        raise UsageError(
            f"related takes {FEWEST} models or more, not {len(models)}", hint="rebasin related A B"
        )


def related_plan(
    problem: MatchingProblem[Choice],
    selection: Selection,
    *,
    search: Search = Search(),
    picture: OutputPlace | None = None,
) -> RelatedPlan:
    """Return the plan for models that are open. Raises UsageError where no matrix can move."""
    choice = problem.choice
    orders = frame_of_orders(choice.bound, choice.movable)
    plan = RelatedPlan(problem, orders, rotations_of(problem), selection, search, picture)
    if not plan.matrices:
        raise UsageError(
            f"spec {choice.name!r} has no units in any matrix of these models",
            hint="rebasin diff compares tensors one by one",
        )
    return plan


def rotations_of(problem: MatchingProblem[Choice]) -> PairFrame | None:
    """Return how models may be rotated, where their spec allows that and all units may move."""
    choice = problem.choice
    if choice.held or not can_rotate(choice.bound):
        return None
    try:
        return frame_of_rotations(plan_folding(choice, problem.models))
    except (SpecError, UsageError):  # a gain that does not fold: units are permuted, as elsewhere
        return None
