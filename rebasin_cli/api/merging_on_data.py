"""Merges that run the models on data: zipit, cca, least-squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from rebasin_cli.alignment.problem import MatchingProblem
from rebasin_cli.api.keywords import Groups
from rebasin_cli.api.running import first_batch, module_among, running_models, user_code
from rebasin_cli.api.specs import SpecSource, matching_problem, subject_given
from rebasin_cli.api.tensors_in import Model, OutputForm, in_given_form
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.command import LINEAR, MergeRequest
from rebasin_cli.commands.merge.common_frame import bring_into_frame
from rebasin_cli.commands.merge.data_methods import as_permuting
from rebasin_cli.commands.merge.least_squares.plan import check_solved, plan_solved_mean
from rebasin_cli.commands.merge.least_squares.run import solved_facts, solved_mean
from rebasin_cli.commands.merge.linear_maps.plan import check_linear, plan_linear_mean
from rebasin_cli.commands.merge.linear_maps.run import found_maps, map_units
from rebasin_cli.commands.merge.plan import MeanPlan, plan_mean
from rebasin_cli.commands.merge.run import running_facts
from rebasin_cli.network.network import UserCode, network_of, no_data
from rebasin_cli.options.machine import plan_machine
from rebasin_cli.progress import silent


@dataclass(frozen=True)
class MergedModels:
    """Models to be merged, opened, and as they were given; data: what they are run on."""

    opened: Sequence[Checkpoint]
    given: Sequence[Model]
    data: Any
    batches: int | None


def merge_on_data(
    request: MergeRequest, models: MergedModels, source: SpecSource, groups: Groups
) -> dict[str, Tensor] | Checkpoint:
    """Return what a method that runs models makes of them, in the form of the first."""
    linear = request.search.method in LINEAR
    check_linear(request) if linear else check_solved(request)
    if models.data is None:
        no_data()
    with running_models():
        code, merge = _plan_code_and_mean(request, models, source, groups)
        how = _merge_by_linear_maps if linear else _merge_by_least_squares
        return how(request, merge, code, models)


def _plan_code_and_mean(
    request: MergeRequest, models: MergedModels, source: SpecSource, groups: Groups
) -> tuple[UserCode, MeanPlan]:
    """Return what runs, and how the models are first aligned by permutations."""
    network = source.model if source.model is not None else module_among(models.given)
    whole = groups.selection.all_tensors
    runnable = network_of(subject_given(network), models.opened[0], whole)
    code = user_code(runnable, models.data, None, models.batches)
    asked = as_permuting(request)
    aligning = replace(groups, search=asked.search)
    machine = plan_machine(aligning.computing, aligning.search)
    if request.strategy == "none":
        return code, plan_mean(asked, MatchingProblem(tuple(models.opened), machine, None))
    fed = source.inputs if source.inputs is not None else first_batch(code, machine)
    traced = SpecSource(None, network, fed) if source.spec is None else SpecSource(source.spec)
    found = matching_problem(models.opened, models.given, traced, aligning, done="averaged")
    return code, plan_mean(asked, MatchingProblem(found.models, found.machine, found.choice))


def _merge_by_linear_maps(
    request: MergeRequest, merge: MeanPlan, code: UserCode, models: MergedModels
) -> dict[str, Tensor] | Checkpoint:
    plan = plan_linear_mean(request, merge, lambda first: code)
    together = bring_into_frame(merge, silent)
    _, maps = found_maps(plan, together.sources, silent)
    facts = partial(running_facts, merge, plan.method)
    form = OutputForm(merge.models, facts, request.selection)
    return in_given_form(models.given, map_units(plan, together.sources, maps), form)


def _merge_by_least_squares(
    request: MergeRequest, merge: MeanPlan, code: UserCode, models: MergedModels
) -> dict[str, Tensor] | Checkpoint:
    plan = plan_solved_mean(request, merge, lambda first: code)
    found = solved_mean(plan, bring_into_frame(merge, silent), silent)
    facts = partial(solved_facts, plan)
    form = OutputForm(merge.models, facts, request.selection, others=found.others)
    return in_given_form(models.given, found.source, form)
