"""The plan of `rebasin merge`: which models, with which weights, in whose frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching, estimate_together, in_any_order
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.overlaps import plan_overlaps
from rebasin_cli.alignment.problem import MatchingProblem, open_problem
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.checks import check_request
from rebasin_cli.commands.merge.combining import plan_combination
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.commands.merge.mixture import MixedModels, check_model_weights, weigh_tensors
from rebasin_cli.commands.merge.saved_parents import plan_parents
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.output_names import output_file, result_ending
from rebasin_cli.files.places import check_distinct
from rebasin_cli.files.result_memory import averaged_bytes
from rebasin_cli.files.targets import Target, describe_target, output_infos, plan_target
from rebasin_cli.merging.combination import Combination
from rebasin_cli.merging.overlap import Overlap
from rebasin_cli.merging.weights import reference_position
from rebasin_cli.options.machine import Machine
from rebasin_cli.renormalization.plan import CorrectionPlan, plan_correction
from rebasin_cli.resuming.finished import plan_finished
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors.blocks import BoundTensor

TOGETHER = ("universe", "sync-sweeps")  # strategies that hold all models at once
MANY = 8  # models up to which the block ascent is the default; it visits each several times


@dataclass(frozen=True)
class MeanPlan:
    """All that bringing models together and averaging them needs.

    models: those of the mixture, with its base, which then is the reference, behind them.
    strategy: a key of STRATEGIES. chosen: False if the user asked for it, so that a basin
    the inputs share may not replace it. choice: None if nothing is aligned. correction: of the
    result's statistics, if that is asked for. check: the model to see with that functions stay.
    overlaps: of each model, where its shapes are not those of the first.
    """

    models: tuple[Checkpoint, ...]
    mixture: MixedModels
    reference: int
    strategy: str
    chosen: bool
    choice: Choice | None
    machine: Machine
    request: MergeRequest
    correction: CorrectionPlan | None
    check: FunctionCheck | None
    overlaps: tuple[Overlap, ...]

    @property
    def tensors(self) -> tuple[BoundTensor, ...]:
        """The tensors that may be permuted; none if nothing is aligned."""
        return self.choice.bound.tensors if self.choice else ()


@dataclass(frozen=True)
class MergePlan(MeanPlan):
    """All that `run_merge` needs. target: where the mean goes; parents: where the models do."""

    target: Target
    parents: tuple[Target, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        search = self.request.search
        matching = describe_matching(self.choice, self.machine, search, self.models)
        made = self._made()
        at_once = [made or 0, matching.get("memory", 0)]
        if self.choice:
            at_once.append(estimate_together(self.choice, self.machine, self.models, self.strategy))
        memory = {"memory": max(at_once)} if any(at_once) else {}
        return {
            "command": "merge",
            "inputs": describe_inputs(self.models),
            "weights": list(self.mixture.weights.models),
            **self.mixture.describe(),
            "reference": str(self.models[self.reference].path),
            "strategy": self.strategy,
            "outputs": [describe_target(target) for target in (self.target, *self.parents)],
            **matching,
            **memory,
            **({"renormalize": self.correction.describe()} if self.correction else {}),
        }

    def _made(self) -> int | None:
        """Return the estimated peak in bytes of averaging the models, if it is known."""
        if self.correction or not self.request.averages:
            return None
        request, layout = self.request, self.target.layout
        tensors = output_infos(self.models[0], layout, request.selection, request.output)
        moved = [in_any_order(m, self.choice) if self.choice else m for m in self.models]
        return averaged_bytes(moved, layout, tensors)


def plan_merge(request: MergeRequest) -> MergePlan:
    """Return what averaging the models will do; nothing is read but headers."""
    asked = plan_choices(request)
    alone = (
        request.strategy == "none" and sum(map(bool, asked.weights)) == 1 and request.averages
    )  # it is written as it is
    problem = open_problem(
        request.paths,
        _aligning(request),
        matched=request.strategy != "none",
        done=None if alone else "averaged",
        together=len(request.paths) - 1 if request.strategy in TOGETHER else 0,
    )
    mean = plan_mean(request, problem)
    target = plan_mean_target(mean.models, request)
    parents = plan_parents(mean.mixture.merged, mean.overlaps, request)
    check_distinct([each.path for each in (target, *parents)])
    return MergePlan(**vars(mean), target=target, parents=parents)


def plan_mean_target(models: Sequence[Checkpoint], request: MergeRequest) -> Target:
    """Return where the mean of models goes, in the form of the first."""
    output, first = request.output, models[0]
    out = output_file(output, "merged", result_ending(first, output))
    finished = plan_finished(request.resume, "merge", models, [out], output)
    return plan_target(
        out,
        first,
        request.selection,
        finished.replacing(out, output),
        own=models,
        create=output.names_folder,
    )


def plan_mean(request: MergeRequest, problem: MatchingProblem[Choice | None]) -> MeanPlan:
    """Return how models that are open will be brought together.

    Raises UsageError for weights, a strategy or a reference that cannot be.
    """
    asked = plan_choices(request)
    models, choice, which = problem.models, problem.choice, asked.reference
    near = not asked.combination.from_base and len(models) <= MANY
    return MeanPlan(
        models=models,
        mixture=asked.mixture(request, models),
        reference=which,
        strategy=request.strategy or ("many" if near else "star"),
        chosen=request.strategy is None,
        choice=choice,
        machine=problem.machine,
        request=request,
        correction=correction_for(request, models[which], choice),
        check=plan_function_check(models[0], request, choice=choice) if choice else None,
        overlaps=plan_overlaps(models, choice, wanted=request.selection.common),
    )


@dataclass(frozen=True)
class MergeChoices:
    """What is settled before any file is opened. reference: the number of a model, or the base."""

    combination: Combination
    weights: tuple[float, ...]
    reference: int

    def mixture(self, request: MergeRequest, models: Sequence[Checkpoint]) -> MixedModels:
        """Return what models that are open will make."""
        merged = tuple(models[: len(self.weights)])
        base = models[-1] if self.combination.from_base else None
        weights = weigh_tensors(self.weights, request.tensor_weights, self.combination, models)
        return MixedModels(merged, base, weights, self.combination)


def plan_choices(request: MergeRequest) -> MergeChoices:
    """Return how models are combined, their weights and the reference, or raise UsageError."""
    paths, base = request.models, request.combining.base
    combination = plan_combination(
        request.combining,
        models=len(paths),
        weights=request.weights,
        seed=request.computing.seed,
    )
    check_request(request)
    reference = len(paths) if base else reference_position(request.reference, paths)
    weights = check_model_weights(request.weights, len(paths), combination)
    return MergeChoices(combination, weights, reference)


def _aligning(request: MergeRequest) -> MergeRequest:
    """Return the request that says how to align: where a model is run, --spec before --model."""
    if request.renormalization is None:
        return request
    return replace(request, tracing=request.tracing.unless(request.selection.spec))


def correction_for(
    request: MergeRequest, reference: Checkpoint, choice: Choice | None
) -> CorrectionPlan | None:
    """Return how the statistics of a mean will be corrected, if that is asked for."""
    if request.renormalization is None:
        return None
    found = plan_correction(
        reference, request.selection, request.tracing, request.data, request.renormalization
    )
    if found.method == "calibrate" and not (choice or found.code):
        raise UsageError("nothing says how deep biases are", hint="--model TARGET")
    return found
