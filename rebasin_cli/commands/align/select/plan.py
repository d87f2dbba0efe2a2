"""The plan of choosing among alignments: all of them planned, and the data that tells."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import STRAIGHT_THROUGH, AlignRequest
from rebasin_cli.commands.align.learning import Learning, check_held_out
from rebasin_cli.commands.align.method_inputs import DATA_METHODS, check_chosen
from rebasin_cli.commands.align.orthogonal.plan import OrthogonalPlan, plan_orthogonal
from rebasin_cli.commands.align.plan import AlignPlan, plan_align
from rebasin_cli.commands.align.select.candidates import Candidate, candidates_of
from rebasin_cli.errors import RebasinWarning, UsageError
from rebasin_cli.files.targets import Target
from rebasin_cli.folding.rotation_data import ACTIVATIONS
from rebasin_cli.folding.rotation_problem import METHODS, ORTHOGONAL, check_rotating
from rebasin_cli.folding.settled_heads import KEEP
from rebasin_cli.network.network import UserCode
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.fold_plan import can_rotate

AUTO = "auto"


@dataclass(frozen=True)
class SelectPlan:
    """The same models planned by each class of maps that is allowed, and the ways to be tried.

    models: to be brought next to the reference. permuting, rotating: one of them is there at
    least; both have the same targets.
    """

    reference: Checkpoint
    models: tuple[Checkpoint, ...]
    machine: Machine
    code: UserCode
    candidates: tuple[Candidate, ...]
    permuting: AlignPlan | None
    rotating: OrthogonalPlan | None
    request: AlignRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        plans = {PERMUTATION: self.permuting, ORTHOGONAL: self.rotating}
        told = {kind: plan.describe() for kind, plan in plans.items() if plan}
        both = {"command": "align", "symmetry": AUTO, **told}
        return {
            **(both if len(told) > 1 else next(iter(told.values()))),
            "candidates": [{"symmetry": c.symmetry, "name": c.name} for c in self.candidates],
        }


def plan_select(request: AlignRequest) -> SelectPlan:
    """Return what will be tried by the classes of maps that the symmetry allows.

    Raises UsageError for what does not go with trying several ways, and as the plans of each do.
    """
    _check(request)
    if request.symmetry == ORTHOGONAL:
        return _among_rotations(request, plan_orthogonal(_running(request)))
    running = replace(_running(request), learning=Learning())
    permuting = plan_align(running, rotated=request.symmetry != PERMUTATION)
    return _among_permutations(request, permuting, _rotating(request, permuting))


def _running(request: AlignRequest) -> AlignRequest:
    """Return the request of a method that runs the models: --model and --data have to be there."""
    search = replace(request.search, method=ACTIVATIONS, start=None, restarts=0, loss="l2")
    return replace(request, search=search, tie=KEEP)


def _rotating(request: AlignRequest, permuting: AlignPlan) -> OrthogonalPlan | None:
    """Return how models are rotated too, where both are asked for and the spec allows it."""
    choice = permuting.choice
    if request.symmetry == PERMUTATION or not can_rotate(choice.bound) or choice.held:
        return None
    with warnings.catch_warnings():  # what is odd about the models was said for permutations
        warnings.simplefilter("ignore", RebasinWarning)
        return plan_orthogonal(_running(request))


def _among_permutations(
    request: AlignRequest, permuting: AlignPlan, rotating: OrthogonalPlan | None
) -> SelectPlan:
    kinds = (PERMUTATION,) if rotating is None else (ORTHOGONAL, PERMUTATION)
    return SelectPlan(
        reference=permuting.reference,
        models=_wanted((item.model, item.target) for item in permuting.items),
        machine=permuting.machine,
        code=_code(permuting.inputs.code),
        candidates=_candidates(request, kinds),
        permuting=permuting,
        rotating=rotating,
        request=request,
    )


def _among_rotations(request: AlignRequest, rotating: OrthogonalPlan) -> SelectPlan:
    (reference, *models), (_, *targets) = rotating.problem.models, rotating.targets
    return SelectPlan(
        reference=reference,
        models=_wanted(zip(models, targets, strict=True)),
        machine=rotating.problem.machine,
        code=_code(rotating.code),
        candidates=_candidates(request, (ORTHOGONAL,)),
        permuting=None,
        rotating=rotating,
        request=request,
    )


def _wanted(pairs: Iterable[tuple[Checkpoint, Target]]) -> tuple[Checkpoint, ...]:
    """Return the models but those whose outputs are there already, and stay."""
    return tuple(model for model, target in pairs if not target.place.skip)


def _candidates(request: AlignRequest, kinds: Sequence[str]) -> tuple[Candidate, ...]:
    assert request.select is not None, "it is what is asked for"
    return candidates_of(kinds, request.search, request.activations, request.select)


def _code(code: UserCode | None) -> UserCode:
    assert code is not None, "a method that runs the models is planned"
    return code


def _check(request: AlignRequest) -> None:
    """Raise UsageError for options that leave nothing to choose, or no midpoint to judge."""
    search = request.search
    check_chosen(request, search.start_file)
    if search.method == STRAIGHT_THROUGH:
        raise UsageError(
            "--select tries ways that take seconds, and straight-through learns for epochs",
            hint="leave out one of them",
        )
    if search.start_file or request.activations.statistics:
        raise UsageError(
            "--select makes candidates of its own, from no file",
            hint="leave out --start and --statistics",
        )
    if request.selection.common:
        raise UsageError("--select averages whole models, and with --common they differ in shape")
    _check_learning(request.learning)
    if request.symmetry != PERMUTATION:
        more = (ACTIVATIONS,) * (request.symmetry == ORTHOGONAL)
        check_rotating(request, methods=(*METHODS, *more))
    plan_machine(request.computing, search, more=DATA_METHODS)


def _check_learning(learning: Learning) -> None:
    if replace(learning, held_out=Learning().held_out) != Learning():
        raise UsageError(
            "--epochs, --learning-rate, --check-every and --resume are about learning",
            hint=f"--method {STRAIGHT_THROUGH}, without --select",
        )
    check_held_out(learning)
