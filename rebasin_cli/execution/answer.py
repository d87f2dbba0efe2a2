"""A task on its way to another process, and what comes back: bytes, the same for every executor.

Plain pickle and not that of multiprocessing, which would send tensors as names of shared memory
that is gone with the process that made it.
"""

from __future__ import annotations

import pickle
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rebasin_cli.errors import RebasinError, warn
from rebasin_cli.execution.task import Task

# What is told to the user as it is; the text of any other exception is that of a bug.
EXPLAINED = (RebasinError, MemoryError, OSError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Answer:
    """What came of a task elsewhere: an outcome, an error that is explained, or a traceback."""

    outcome: Any = None
    error: Exception | None = None
    bug: str = ""
    warnings: Sequence[Warning] = ()


def pack(task: Task[Any]) -> bytes:
    """Return a task as it travels."""
    return pickle.dumps(task)


def unpack(packed: bytes) -> Task[Any]:
    """Return a task that has arrived; its inputs are opened here."""
    task: Task[Any] = pickle.loads(packed)
    return task


def carry_out_task(work: Callable[[], Any]) -> bytes:
    """Do what arrived as a task, and return the answer as it travels back."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = _answer(work)
    told = tuple(w.message for w in caught if isinstance(w.message, Warning))
    return pickle.dumps(replace(answer, warnings=told))


def _answer(work: Callable[[], Any]) -> Answer:
    try:
        return Answer(work())
    except EXPLAINED as error:
        return Answer(error=error)
    except Exception:  # a bug: it travels as text, and `outcome_of` raises it where the run began
        return Answer(bug=traceback.format_exc())


def outcome_of(packed: bytes) -> Any:
    """Return the outcome in an answer, or raise what the task raised; its warnings come first."""
    answer: Answer = pickle.loads(packed)
    for warning in answer.warnings:
        warn(warning)
    if answer.error is not None:
        raise answer.error
    if answer.bug:
        raise RuntimeError(answer.bug)
    return answer.outcome
