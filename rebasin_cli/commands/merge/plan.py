"""The plan of `rebasin merge`: which models, with which weights, in whose frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.estimate import check_search, describe_matching
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.overlaps import plan_overlaps
from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import check_fit, describe_inputs, open_models
from rebasin_cli.files.targets import Target, describe_target, ending, output_file, plan_target
from rebasin_cli.matching import STRATEGIES
from rebasin_cli.merging.overlap import Overlap
from rebasin_cli.merging.weights import check_weights, reference_position
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.renormalization.plan import Asked, CorrectionPlan, plan_correction
from rebasin_cli.spec_choice.choice import Choice, choose_spec

MANY = 8  # models up to which the block ascent is the default; it visits each several times


@dataclass(frozen=True)
class MergePlan:
    """All that `run_merge` needs.

    strategy: a key of STRATEGIES. chosen: False if the user asked for it, so that a basin
    the inputs share may not replace it. choice: None if nothing is aligned. correction: of the
    result's statistics, if that is asked for. check: the model to see with that functions stay.
    overlaps: of each model, where its shapes are not those of the first.
    """

    models: tuple[Checkpoint, ...]
    weights: tuple[float, ...]
    reference: int
    strategy: str
    chosen: bool
    choice: Choice | None
    target: Target
    machine: Machine
    request: MergeRequest
    correction: CorrectionPlan | None = None
    check: FunctionCheck | None = None
    overlaps: tuple[Overlap, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        matching = describe_matching(self.choice, self.machine) if self.choice else {}
        return {
            "command": "merge",
            "inputs": describe_inputs(self.models),
            "weights": list(self.weights),
            "reference": str(self.models[self.reference].path),
            "strategy": self.strategy,
            "outputs": [describe_target(self.target)],
            **matching,
            **({"renormalize": self.correction.describe()} if self.correction else {}),
        }


def plan_merge(
    paths: Sequence[Path],
    request: MergeRequest,
    *,
    strategy: str | None = None,
    weights: Sequence[float] = (),
    reference: Path | None = None,
    renormalize: Asked | None = None,
) -> MergePlan:
    """Return what averaging the models will do; nothing is read but headers.

    strategy: None: `many` up to 8 models, else `star`. reference: one of the models, whose
    frame the result has; None: the first. renormalize: how the result's
    statistics are to be corrected; --spec then says how to align, and --model what is run.
    """
    if len(paths) < 2:
        raise UsageError("merge needs at least two models", hint="rebasin merge MODEL MODEL...")
    if strategy is not None and strategy not in STRATEGIES:
        hint = suggest(strategy, STRATEGIES) or ", ".join(STRATEGIES)
        raise UsageError(f"no strategy is called {strategy!r}", hint=hint)
    checked = check_weights(weights, len(paths))
    which = reference_position(reference, paths)
    machine = plan_machine(request.computing, request.search)
    models = open_models(paths, request.selection)
    if strategy != "none" or sum(map(bool, checked)) > 1:  # one alone is written as it is
        refuse_codes(models, request.selection, done="averaged")
    check_fit(models[0], models[1:], request.selection, request.tracing)
    matched = options.spec_first() if renormalize else options
    choice = None if strategy == "none" else choose_spec(models, matched)
    correction = (
        plan_correction(
            models[which], request.selection, request.tracing, request.data, renormalize
        )
        if renormalize
        else None
    )
    if correction and correction.method == "calibrate" and not (choice or correction.door):
        raise UsageError("nothing says how deep biases are", hint="--model TARGET")
    if choice:
        together = len(paths) - 1 if strategy == "universe" else 0
        check_search(choice, machine, request.search, together=together)
    out = output_file(request.output, f"merged{ending(models[0], request.output)}")
    return MergePlan(
        models=tuple(models),
        weights=checked,
        reference=which,
        strategy=strategy or ("many" if len(paths) <= MANY else "star"),
        chosen=strategy is None,
        choice=choice,
        target=plan_target(
            out,
            models[0],
            request.selection,
            request.output,
            own=models,
            create=request.output.names_folder,
        ),
        machine=machine,
        request=request,
        correction=correction,
        check=plan_function_check(models[0], request.selection, request.tracing, choice)
        if choice
        else None,
        overlaps=plan_overlaps(models, choice, wanted=request.selection.common),
    )
