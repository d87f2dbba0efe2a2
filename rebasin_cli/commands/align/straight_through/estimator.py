"""The straight-through estimator: permutations learned from the loss of the midpoint.

Free parameters begin at the reference A. Each step projects them on the orders of the other model
B, runs the midpoint 1/2 (A + pi(B)) on a batch, and moves the free parameters as if they had stood
in the place of pi(B).
Source: Ainsworth, Hayase, Srinivasa 2023 (arXiv 2209.04836), Algorithm 2.
Deviations: (1) permutations are chosen by held-out batches, and those that learning starts from are
the first candidate; the source keeps those of the least loss on one minibatch; (2) norms see the
statistics of the batch they are given: the mean of two models' running statistics fits neither of
them, let alone their midpoint; dropout is off; (3) batches come in the loader's own order; (4) the
learning rate is a share of the reference's length, taken by the first step: the source's 0.01 in
its own units moved nothing in a network of 0.9 million parameters within 10 epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite, sqrt

import torch
from torch import Tensor

from rebasin_cli.commands.align.straight_through.midpoints import Midpoints
from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.permutation import Permutations
from rebasin_cli.progress import Progress, silent
from rebasin_cli.tensors.numbers import on_host

MOMENTUM = 0.9  # as the source has it
FURTHEST = 1e15  # of a free parameter: products of such still fit into a float32

Project = Callable[[Mapping[str, Tensor], Permutations], Permutations]
"""The permutations nearest to free parameters, searched from others."""


@dataclass(frozen=True)
class LearningTask:
    """What is learned from, and how.

    rate: length of the first step of the free parameters, in lengths of the reference. check:
    batches between two looks at the held-out ones; None: one look, after each epoch.
    """

    midpoints: Midpoints
    split: DataSplit
    project: Project
    rate: float
    check: int | None = None
    progress: Progress = field(default=silent, compare=False)


@dataclass(frozen=True)
class LearningState:
    """Where learning stands after an epoch; from here on it goes as if it had never stopped.

    free, velocity: of the tensors that are compared, by their names in the checkpoint. current:
    the permutations nearest to `free`; best: those of the least held-out loss, found in
    `best_epoch`, 0 for the start. losses: held out, of the start and after each epoch. unit: of
    the learning rate; 0 before the first step. stopped: why learning broke off, if it did.
    """

    free: Mapping[str, Tensor]
    velocity: Mapping[str, Tensor]
    current: Permutations
    best: Permutations
    least: float = inf
    best_epoch: int = 0
    losses: tuple[float, ...] = ()
    unit: float = 0.0
    stopped: str = ""

    @property
    def epoch(self) -> int:
        """The epochs behind it."""
        return max(len(self.losses) - 1, 0)

    def judged(self, loss: float, epoch: int) -> LearningState:
        """Return the state with the current permutations as the best, if their loss is less."""
        if not loss < self.least:
            return self
        return replace(self, best=self.current, least=loss, best_epoch=epoch)


def start_learning(
    course: LearningTask, free: Mapping[str, Tensor], start: Permutations
) -> LearningState:
    """Return the state before the first epoch. free: the reference's tensors.

    Raises UserCodeError if the midpoint cannot be judged: no targets, or a loss that is no number.
    """
    loss = course.midpoints.held_out(start, course.split)
    if not isfinite(loss):
        raise UserCodeError(
            f"{course.split.batches.name}: the loss of the midpoint is {loss}",
            detail="permutations are compared by it, so it has to be a number",
        )
    still = {name: torch.zeros_like(values) for name, values in free.items()}
    return LearningState(free, still, start, start, losses=(loss,)).judged(loss, 0)


def epochs(course: LearningTask, state: LearningState, until: int) -> Iterator[LearningState]:
    """Yield the state after each epoch up to a number of them, or until learning breaks off."""
    steps = course.split.count() if state.epoch < until else 0
    while state.epoch < until and not state.stopped:
        state = _epoch(course, state, steps, until)
        yield state


def _epoch(course: LearningTask, state: LearningState, steps: int, until: int) -> LearningState:
    """Return the state after one more pass, or where that broke off. steps: batches in it."""
    epoch, behind = state.epoch + 1, state.epoch * steps
    for k, batch in enumerate(course.split.learned()):
        course.progress("learning", behind + k, until * steps)
        state = _step(course, state, batch)
        if state.stopped:
            return replace(state, stopped=f"{state.stopped} in batch {k + 1} of epoch {epoch}")
        if course.check and (k + 1) % course.check == 0:
            state, _ = _looked(course, state, epoch)
    state, loss = _looked(course, state, epoch)
    return replace(state, losses=(*state.losses, loss))


def _looked(course: LearningTask, state: LearningState, epoch: int) -> tuple[LearningState, float]:
    """Return the state with its permutations brought up to date and judged, and their loss."""
    state = replace(state, current=course.project(state.free, state.current))
    loss = course.midpoints.held_out(state.current, course.split)
    return state.judged(loss, epoch), loss


def _step(course: LearningTask, state: LearningState, batch: Batch) -> LearningState:
    """Return the state after a step down the slope of one batch, with momentum."""
    current = course.project(state.free, state.current)
    slope = course.midpoints.slope(current, batch, course.split.batches.name)
    if not all(on_host(values.isfinite().all() for values in slope.values())):
        return replace(state, stopped="the loss had no finite slope")
    velocity = {
        name: MOMENTUM * moving + slope[name].to(moving) if name in slope else MOMENTUM * moving
        for name, moving in state.velocity.items()
    }
    unit = state.unit or _unit(state.free, slope)
    rate = course.rate * unit
    free = {name: values - rate * velocity[name] for name, values in state.free.items()}
    if not all(on_host((values.abs() < FURTHEST).all() for values in free.values())):
        return replace(state, stopped="the free parameters ran away")
    return replace(state, current=current, free=free, velocity=velocity, unit=unit)


def _unit(free: Mapping[str, Tensor], slope: Mapping[str, Tensor]) -> float:
    """Return the rate with which the first step is as long as the free parameters; 0: no slope."""
    length = _length({name: slope[name] for name in slope if name in free})
    return _length(free) / length if length else 0.0


def _length(tensors: Mapping[str, Tensor]) -> float:
    lengths = on_host(torch.linalg.vector_norm(values) for values in tensors.values())
    return sqrt(sum(length**2 for length in lengths))
