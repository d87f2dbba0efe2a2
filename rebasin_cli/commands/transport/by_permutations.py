"""The units of the origin put in the order of the target's: exact, whatever the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.alignment.estimate import describe_matching
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.functions import FunctionDifference, check_function
from rebasin_cli.alignment.match import match_models
from rebasin_cli.alignment.problem import problem_of
from rebasin_cli.alignment.report import agreement_fields, agreement_text, matched_fields
from rebasin_cli.alignment.unit_pair import UnitPair
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.transport.command import TransportRequest
from rebasin_cli.commands.transport.held_out import learned_batches
from rebasin_cli.commands.transport.tensor_fates import TensorFates
from rebasin_cli.commands.transport.transported import CarriedFrame
from rebasin_cli.commands.transport.way import CarriedModels, SearchedWay, ThreeModels
from rebasin_cli.errors import Problem, SpecError
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.files.provenance import basin_of
from rebasin_cli.folding.rotation_data import ACTIVATIONS
from rebasin_cli.folding.settled_heads import check_tie
from rebasin_cli.folding.tied_heads import Heads
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.network.built import batches_of
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.options.machine import plan_machine
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.choice import Choice, tensors_cut_for
from rebasin_cli.spec_choice.unnamed import touched_groups
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.wording import count


@dataclass(frozen=True)
class BasesMatching:
    """What was found of two bases, and how it is told. spec: its name."""

    matching: Matching
    function: FunctionDifference | None
    spec: str

    @property
    def permutations(self) -> Permutations:
        return self.matching.permutations

    @property
    def lines(self) -> tuple[str, ...]:
        found, product = self.matching, self.matching.objective
        told = (
            f"{found.status.value}: inner product {product.before:.4g} -> {product.after:.4g}, "
            f"{found.moved} of {count(len(found.groups), 'group')} moved, spec {self.spec}"
        )
        return (told, *([agreement_text(self.function)] if self.function else []))

    @property
    def fields(self) -> dict[str, Any]:
        return {**matched_fields(self.matching), **agreement_fields(self.function)}


@dataclass(frozen=True)
class PermutationWay(SearchedWay):
    """A problem of the target and the origin.

    tensors: as they are cut in the tuned model. check: a model to see with that the origin keeps
    its function.
    """

    tuned: Checkpoint
    tensors: Sequence[BoundTensor]
    check: FunctionCheck | None

    @property
    def heads(self) -> Heads:
        return {}

    def describe(self) -> dict[str, Any]:
        return describe_matching(
            self.problem.choice, self.machine, self.request.search, self.problem.models
        )

    def bring(self, progress: Progress) -> CarriedModels:
        """Return the three models in the order of the target's units.

        Raises PermutationError where the origin would compute something else in that order.
        """
        found, selection = self.match(progress), self.request.selection
        moved = self._origin(found.matching)
        tuned = Permuted(finite_model(self.tuned, selection), self.tensors, found.permutations)
        frame = CarriedFrame(finite_model(self.target, selection), tuned, moved)
        return CarriedModels(frame, found.lines, found.fields, basin_of(self.target))

    def match(self, progress: Progress) -> BasesMatching:
        """Return the order that brings the origin next to the target.

        Raises PermutationError where it would compute something else in that order.
        """
        matching = self._found(progress)
        progress("checking the function", 0, 0)
        where = str(self.origin.path)
        function = check_function(self.check, self.origin, self._origin(matching), where=where)
        return BasesMatching(matching, function, self.spec)

    def _origin(self, matching: Matching) -> Permuted:
        bound = self.problem.choice.bound
        origin = finite_model(self.origin, self.request.selection)
        return Permuted(origin, bound.tensors, matching.permutations)

    def _found(self, progress: Progress) -> Matching:
        """Return the matching of the origin to the target, by weights or by activations."""
        (target, origin), request = self.problem.models, self.request
        choice, machine = self.problem.choice, self.machine
        if self.code is None:
            return match_models(target, origin, choice, machine, request.search, progress=progress)
        pair = UnitPair(target, origin, choice, machine)
        batches = learned_batches(request, batches_of(self.code, machine))
        units = pair.observe(
            self.code.network, batches, request.selection, request.tracing, progress
        )
        return pair.match(units, request.search, progress)


def plan_permutations(
    models: ThreeModels, fates: TensorFates, request: TransportRequest
) -> PermutationWay:
    """Return how permutations will be found; nothing is read but headers.

    models: the tuned one, its origin, the target. Raises SpecError for a tensor of the tuned model
    alone of which nothing says how units lie in it.
    """
    check_tie(request.tie, folds=False)
    tuned, origin, target = models
    machine = plan_machine(request.computing, request.search, more=[ACTIVATIONS])
    asked = replace(request, tracing=_aligning(fates, request))
    problem = problem_of([target, origin], asked, machine, done="added to")
    choice, selection = problem.choice, request.selection
    tensors: Sequence[BoundTensor] = choice.bound.tensors
    if fates.replaced:
        tensors = tensors_cut_for(choice, tuned, origin, selection)
        _check_named(choice, tensors, fates, tuned)
    check = plan_function_check(origin, asked, choice=choice)
    return PermutationWay(problem, _code(target, request), request, tuned, tensors, check)


def _code(target: Checkpoint, request: TransportRequest) -> UserCode | None:
    """Return what the bases are run on, if they are matched by what they do."""
    if request.search.method != ACTIVATIONS:
        return None
    return plan_user_code(target, request.selection, request.tracing, request.data, fed=True)


def _aligning(fates: TensorFates, request: TransportRequest) -> Tracing:
    """Return what is traced to align the bases: a model with another head is none of them."""
    if fates.replaced:
        return replace(request.tracing, target=None)
    return request.tracing.unless(request.selection.spec)


def _check_named(
    choice: Choice, tensors: Sequence[BoundTensor], fates: TensorFates, tuned: Checkpoint
) -> None:
    """Raise SpecError for tensors that would stay in order, and may hold units that do not."""
    named = {name for tensor in tensors for name in tensor.members}
    free = {g.name for g in choice.bound.groups.values() if g.root in choice.movable}
    problems = [
        Problem(
            f"{name!r} is of the tuned model alone, and may hold units that change places",
            where=str(tuned.path),
            detail=f"spec {choice.name!r} does not name it",
            hint=f"name it in the spec; --skip '{name}' leaves it out",
        )
        for name, info in fates.replaced.items()
        if name not in named and info.numel > 1 and touched_groups(choice.bound, info) & free
    ]
    if problems:
        raise SpecError(*problems)
