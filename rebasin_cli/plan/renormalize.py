"""The plan of `rebasin renormalize`: which model, with which parents, by which method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.plan.align import output_paths
from rebasin_cli.plan.choice import Choice, choose_spec
from rebasin_cli.plan.correction import Asked, CorrectionPlan, aligning, plan_correction
from rebasin_cli.plan.estimate import (
    check_search,
    describe_inputs,
    describe_matching,
    describe_target,
)
from rebasin_cli.plan.inputs import check_fit, open_models
from rebasin_cli.plan.machine import Machine, plan_machine
from rebasin_cli.plan.merge import check_weights
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.targets import Target, plan_target


@dataclass(frozen=True)
class RenormalizePlan:
    """All that `run_renormalize` needs.

    weights: empty: what the model's provenance says, else equal. choice: how parents are aligned
    that do not lie in the model's basin, and how deep biases are where no model says it; None if
    neither is asked for. align: whether parents may be moved.
    """

    model: Checkpoint
    parents: tuple[Checkpoint, ...]
    weights: tuple[float, ...]
    correction: CorrectionPlan
    choice: Choice | None
    align: bool
    target: Target
    machine: Machine
    options: Options

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        matching = describe_matching(self.choice, self.machine) if self.choice else {}
        return {
            "command": "renormalize",
            "inputs": describe_inputs([self.model, *self.parents]),
            "weights": list(self.weights) or None,
            "align": self.align and self.choice is not None,
            **self.correction.describe(),
            "outputs": [describe_target(self.target)],
            **matching,
        }


def plan_renormalize(
    path: Path,
    options: Options,
    asked: Asked,
    *,
    parents: Sequence[Path] = (),
    weights: Sequence[float] = (),
    align: bool = True,
) -> RenormalizePlan:
    """Return what correcting a merged model will do; nothing is read but headers.

    Raises UsageError for parents, a model or data that the method needs.
    """
    machine = plan_machine(options)
    model, *opened = open_models([path, *parents], options)
    whole = aligning(options)
    check_fit(model, opened, whole)
    correction = plan_correction(model, options, asked)
    _check_parents(correction, opened)
    by_spec = correction.method == "calibrate" and correction.door is None
    searched = correction.by_parents and (align or by_spec)
    choice = choose_spec([model, *opened], whole) if searched else None
    if choice and align:
        check_search(choice, machine, whole)
    (out,) = output_paths([model], options, word="renormalized")
    return RenormalizePlan(
        model=model,
        parents=tuple(opened) if correction.by_parents else (),
        weights=check_weights(weights, len(opened)) if weights else (),
        correction=correction,
        choice=choice,
        align=align,
        target=plan_target(out, model, options, own=[model], create=options.out_folder),
        machine=machine,
        options=options,
    )


def _check_parents(correction: CorrectionPlan, parents: Sequence[Checkpoint]) -> None:
    if correction.by_parents and not parents:
        raise UsageError(
            f"{correction.method} brings a merged model next to its parents: name them",
            hint="rebasin renormalize MERGED --parents A B",
        )
