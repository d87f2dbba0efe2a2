"""Matching by the straight-through estimator: the model, its data and the search joined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import STRAIGHT_THROUGH
from rebasin_cli.commands.align.plan import AlignItem, AlignPlan
from rebasin_cli.commands.align.straight_through.estimator import (
    LearningState,
    LearningTask,
    epochs,
    start_learning,
)
from rebasin_cli.commands.align.straight_through.midpoints import Midpoints
from rebasin_cli.commands.align.straight_through.state_file import read_state, write_state
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.device_tensors import working_dtype
from rebasin_cli.matching.problem.measure import measure
from rebasin_cli.matching.problem.result import Change, HeldOut, Matching, Status
from rebasin_cli.matching.search.descent import projection
from rebasin_cli.merging.sources import Mean
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import InMemory, TensorSource

SETTLED = (Status.EQUAL, Status.EXACT, Status.NOTHING)  # the midpoint is the reference, or stays


def by_straight_through(plan: AlignPlan, item: AlignItem, progress: Progress) -> Matching:
    """Return the matching of an item's model to the reference, learned from the midpoint's loss.

    Weights are matched first; what that finds is kept unless held-out data say better of another.
    """
    start = match_weights(
        plan.reference,
        item.model,
        plan.choice.bound,
        settings=replace(plan.machine.settings(plan.request.search), method="auto"),
        movable=plan.choice.movable,
        initial=plan.initial,
        labels=(str(plan.reference.path), str(item.model.path)),
        progress=progress,
    )
    if start.status in SETTLED:
        return replace(start, method=STRAIGHT_THROUGH)
    pair = _LearnedPair(plan, item.model, progress)
    course = _course(pair)
    state = _learned(pair, course, start.permutations)
    found = _matching(state, start, pair)
    return replace(found, method=STRAIGHT_THROUGH, held_out=_held_out(state, course))


@dataclass(frozen=True)
class _LearnedPair:
    """The two models of one item, in memory, and what is done with them."""

    plan: AlignPlan
    model: Checkpoint
    progress: Progress

    @property
    def files(self) -> tuple[Checkpoint, Checkpoint]:
        return self.plan.reference, self.model

    @property
    def bound(self) -> BoundSpec:
        return self.plan.choice.bound

    @cached_property
    def tensors(self) -> tuple[InMemory, InMemory]:
        """All tensors of both, on the device."""
        device = torch.device(self.plan.machine.device)
        reference, other = (
            InMemory({name: file.load(name).to(device) for name in file.names()})
            for file in self.files
        )
        return reference, other

    @cached_property
    def free(self) -> dict[str, Tensor]:
        """The free parameters where they begin: the tensors of the reference that are compared."""
        reference, _ = self.tensors
        voting = (name for t in self.bound.tensors if t.votes for name in t.members)
        return {name: reference.load(name).to(self.dtype) for name in voting}

    @property
    def dtype(self) -> torch.dtype:
        return working_dtype(torch.device(self.plan.machine.device), *self.files)

    def between(self, permutations: Permutations) -> TensorSource:
        """Return the midpoint of the reference and the model's units in some order."""
        reference, other = self.tensors
        moved = Permuted(other, self.bound.tensors, permutations)
        return Mean((reference, moved), (1, 1), 0, self.plan.request.selection.selects)


def _learned(pair: _LearnedPair, course: LearningTask, start: Permutations) -> LearningState:
    """Return where learning ends; each epoch is saved where the user asks for that."""
    plan, learning = pair.plan, pair.plan.request.learning
    file = learning.resume
    if file is not None and file.exists():
        state = read_state(file, pair.free, pair.bound, pair.files, plan.request)
    else:
        state = start_learning(course, pair.free, start)
    for later in epochs(course, state, learning.epochs):
        state = later
        if file is not None and not state.stopped:
            write_state(file, state, pair.files, plan.request)
    return state


def _course(pair: _LearnedPair) -> LearningTask:
    plan, learning = pair.plan, pair.plan.request.learning
    door = plan.inputs.code
    assert door is not None, "the plan has seen to it"
    settings = plan.machine.settings(plan.request.search)
    movable = plan.choice.movable
    model = build_network(door.network, pair.tensors[0], plan.machine)
    return LearningTask(
        midpoints=Midpoints(model, door.network.windows, pair.between),
        split=DataSplit(batches_of(door, plan.machine), learning.held_out),
        project=projection(
            pair.tensors[1], pair.bound, settings, dtype=pair.dtype, movable=movable
        ),
        rate=learning.learning_rate,
        check=learning.check_every,
        progress=pair.progress,
    )


def _matching(state: LearningState, start: Matching, pair: _LearnedPair) -> Matching:
    """Return the best permutations with the figures of the checkpoints under them."""
    if state.best == start.permutations:
        return start
    measured = measure(*pair.files, pair.bound, state.best)
    moved = any(permutation.moved for permutation in state.best.values())
    return replace(
        start,
        permutations=state.best,
        status=Status.MOVED if moved else Status.STAYED,
        objective=measured.objective,
        distance=measured.distance,
        groups=measured.groups,
        history=(),
    )


def _held_out(state: LearningState, course: LearningTask) -> HeldOut:
    return HeldOut(
        loss=Change(state.losses[0], state.least),
        losses=state.losses,
        best=state.best_epoch,
        norms=course.midpoints.norms,
        stopped=state.stopped,
    )
