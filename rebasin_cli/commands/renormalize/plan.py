"""The plan of `rebasin renormalize`: which model, with which parents, by which method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import check_search, describe_matching
from rebasin_cli.alignment.problem import warn_idle
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.renormalize.command import RenormalizeRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import check_fit, describe_inputs, open_models
from rebasin_cli.files.output_names import own_target
from rebasin_cli.files.targets import Target, describe_target
from rebasin_cli.merging.weights import check_weights
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.search import Search
from rebasin_cli.renormalization.corrected import CorrectionReport
from rebasin_cli.renormalization.plan import CorrectionPlan, plan_correction
from rebasin_cli.spec_choice.choice import Choice, choose_spec


@dataclass(frozen=True)
class RenormalizePlan:
    """All that `run_renormalize` needs.

    weights: empty: what the model's provenance says, else equal. choice: how parents are aligned
    that do not lie in the model's basin, and how deep biases are where no model says it; None if
    neither is asked for. measured: the parents that statistics have to be of; none: not named.
    """

    model: Checkpoint
    parents: tuple[Checkpoint, ...]
    weights: tuple[float, ...]
    correction: CorrectionPlan
    choice: Choice | None
    target: Target
    machine: Machine
    request: RenormalizeRequest
    measured: tuple[Checkpoint, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        models = [self.model, *self.parents]
        matching = describe_matching(self.choice, self.machine, Search(), models)
        return {
            "command": "renormalize",
            "inputs": describe_inputs(models),
            "weights": list(self.weights) or None,
            "align": self.request.align and self.choice is not None,
            **self.correction.describe(),
            "outputs": [describe_target(self.target)],
            **matching,
        }


def plan_renormalize(request: RenormalizeRequest) -> RenormalizePlan:
    """Return what correcting a merged model will do; nothing is read but headers.

    Raises UsageError for parents, a model or data that the method needs.
    """
    machine = plan_machine(request.computing, Search())
    model, *opened = open_models([request.model, *request.parents], request.selection)
    whole, tracing = request.selection.all_tensors, request.tracing.unless(request.selection.spec)
    check_fit(model, opened, whole, tracing)
    correction = plan_correction(
        model, request.selection, request.tracing, request.data, request.renormalization
    )
    _check_parents(correction, opened)
    by_spec = correction.method == "calibrate" and correction.code is None
    searched = correction.by_parents and (request.align or by_spec)
    choice = choose_spec([model, *opened], whole, tracing=tracing) if searched else None
    if choice and request.align:
        check_search(choice, machine, Search())
    _tell_idle(request, correction, choice)
    return RenormalizePlan(
        model=model,
        parents=tuple(opened) if correction.by_parents else (),
        weights=check_weights(request.weights, len(opened)) if request.weights else (),
        correction=correction,
        choice=choice,
        target=own_target(model, request.selection, request.output, word="renormalized"),
        machine=machine,
        request=request,
        measured=tuple(opened) if correction.statistics is not None else (),
    )


def _tell_idle(
    request: RenormalizeRequest, correction: CorrectionPlan, choice: Choice | None
) -> None:
    """Warn of data, and of what is said of parents, where the method does not ask for it."""
    traced = choice is not None and (choice.complete or choice.traced is not None)
    if not (correction.runs or traced):
        data = {"--data": request.data.data, "--batches": request.data.batches}
        warn_idle(data, f"{correction.method} runs nothing here")
    if not correction.by_parents:
        alone = correction.method == "reset"
        weighed = {"--parents": request.parents, "--weights": request.weights} if alone else {}
        warn_idle(
            {**weighed, "--no-align": not request.align}, f"{correction.method} reads no parents"
        )


def _check_parents(correction: CorrectionPlan, parents: Sequence[Checkpoint]) -> None:
    if correction.by_parents and not parents:
        raise UsageError(
            f"{correction.method} brings a merged model next to its parents: name them",
            hint="rebasin renormalize MERGED --parents A B",
        )


@dataclass(frozen=True)
class Parent:
    """A model that another is a mean of. basin: how it came into the basin of the merged one."""

    path: Path
    weight: float
    basin: str


@dataclass(frozen=True)
class Renormalized:
    """A merged model whose statistics were corrected inside its own weights.

    spec: what the parents were aligned under, None if they were not. assumed: what the depths of
    `calibrate` take for granted.
    """

    model: Path
    parents: tuple[Parent, ...]
    report: CorrectionReport
    spec: str | None
    assumed: str
    written: Written
    seconds: float
