"""One point of a curve or plane as a task: a mixture of models that is judged, in any process.

What costs much and is the same for all points is made once in a process: the tensors that are
mixed, and the model that takes the weights of every mixture in turn.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebasin_cli.activations.layer_statistics import Goal, LayerStatistics, goals
from rebasin_cli.commands.barrier.plan import BarrierPlan
from rebasin_cli.commands.barrier.scored_points import MixturePoint
from rebasin_cli.errors import Problem, UserCodeError
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.merging.sources import Mean
from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.built import batches_of, build_network, judge_of
from rebasin_cli.network.scoring.scores import Judge, Scores
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import CorrectionSettings
from rebasin_cli.renormalization.correction_methods import renormalize
from rebasin_cli.tensors import InMemory, TensorSource
from rebasin_cli.tensors.torch_threads import on_threads

# What is judged by a task: the scores of a mixture, and how long it took.
PointScores = tuple[Scores, float]


@dataclass(frozen=True)
class Ends:
    """The models between which points lie. make: gives their tensors, in memory if there is room.

    Pickled is only how they are made.
    """

    make: Callable[[Machine], Sequence[TensorSource]]

    def at(self, machine: Machine) -> Sequence[TensorSource]:
        """Return the tensors, made once in a process."""
        if "made" not in self._held:
            self._held["made"] = self.make(machine)
        return self._held["made"]

    @cached_property
    def _held(self) -> dict[str, Sequence[TensorSource]]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Ends, (self.make,)


def stored_ends(plan: BarrierPlan, machine: Machine) -> list[TensorSource]:
    """Return the models of a plan as they are."""
    sources = [finite_model(model, plan.request.selection) for model in plan.models]
    return [in_memory_if_room(source, plan, machine) for source in sources]


def in_memory_if_room(source: TensorSource, plan: BarrierPlan, machine: Machine) -> TensorSource:
    """Return a source in memory if there is room, so that no point has to read it again."""
    present = set(source.names())
    names = [name for name in plan.code.network.windows if name in present]
    size = sum(source.info(name).nbytes for name in names)
    if not plan.holds(size, machine):
        return source
    return InMemory({name: source.load(name) for name in names})


@dataclass(frozen=True)
class PointCorrection:
    """What corrects a mixture, from what the layers of the models do: nothing for `reset`.

    What a mixture should do follows from its weights.
    """

    method: str
    known: Mapping[str, LayerStatistics]

    def goals(self, mixture: MixturePoint, machine: Machine) -> dict[str, Goal]:
        """Return what the layers of a mixture should do, where that is measured."""
        place = machine.device if machine.device.startswith("cuda") else "cpu"  # mps: on the CPU
        found = goals(self.known, mixture.weights)
        return {name: goal.on(torch.device(place)) for name, goal in found.items()}


@dataclass(frozen=True)
class MixtureModel:
    """The model of a plan, which takes the weights of every mixture in turn, and its judge.

    threads: those of torch that it is run on, so that figures do not depend on who judges.
    """

    plan: BarrierPlan
    threads: int

    def model(self, machine: Machine) -> nn.Module:
        """Return the model on the device of a machine, built once in a process."""
        if machine.device not in self._built:
            plan = self.plan
            model = build_network(plan.code.network, plan.models[0], machine)
            self._built[machine.device] = model, judge_of(plan.code, machine)
        return self._built[machine.device][0]

    def scores(
        self,
        mixture: MixturePoint,
        ends: Ends,
        correction: PointCorrection | None,
        machine: Machine,
    ) -> Scores:
        """Return what the judge says of a mixture."""
        code, selects = self.plan.code, self.plan.request.selection.selects
        model = self.model(machine)
        mean = Mean(ends.at(machine), mixture.weights, 0, selects)
        fill(model, mean, code.network.windows)
        with on_threads(self.threads):
            if correction is not None:
                wanted = correction.goals(mixture, machine)
                how = CorrectionSettings(correction.method)
                renormalize(model, wanted, batches_of(code, machine), how)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.plan.request.computing.seed)
                return self._built[machine.device][1](model.eval())

    @cached_property
    def _built(self) -> dict[str, tuple[nn.Module, Judge]]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return MixtureModel, (self.plan, self.threads)


@dataclass(frozen=True)
class CommonWork:
    """What all points of a segment have in common."""

    mixed: MixtureModel
    ends: Ends
    correction: PointCorrection | None = None

    @cached_property
    def packed(self) -> bytes:
        return pickle.dumps(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return CommonWork, (self.mixed, self.ends, self.correction)


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> CommonWork:
    """Return what points have in common, the same for all that arrive one after another."""
    work: CommonWork = pickle.loads(packed)
    return work


def _unpickled_task(packed: bytes, mixture: MixturePoint) -> JudgeTask:
    return JudgeTask(_unpacked(packed), mixture)


@dataclass(frozen=True)
class JudgeTask:
    """One mixture to be judged."""

    work: CommonWork
    mixture: MixturePoint

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_task, (self.work.packed, self.mixture)

    def __call__(self, machine: Machine, progress: Progress) -> PointScores:
        """Judge it. Raises UserCodeError, which says at which point, as the user's code does."""
        began = perf_counter()
        try:
            scores = self.work.mixed.scores(
                self.mixture, self.work.ends, self.work.correction, machine
            )
        except UserCodeError as error:
            problems = (_placed(problem, self.mixture) for problem in error.problems)
            raise UserCodeError(*problems) from error
        return scores, perf_counter() - began


def _placed(problem: Problem, mixture: MixturePoint) -> Problem:
    """Return a problem with the mixture at which it was met."""
    return replace(problem, what=f"at the {mixture}: {problem.what}")


def has_running_statistics(model: nn.Module) -> bool:
    """Return whether a layer keeps statistics of what it has read."""
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())
