"""Running a function in a process of its own, so that its time and memory can be told."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which the kernel counts a peak
LOADED = ["rebasin_cli.matching", "rebasin_cli.checkpoint", "tests.models"]


@dataclass(frozen=True)
class Taken(Generic[R]):
    """What a call returned, its CPU seconds, and the most bytes that its process held.

    before: the most that it had held when the call began, the call's arguments included.
    """

    value: R
    cpu: float
    before: int
    peak: int


def apart(function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Call a function in a new process that has the packages loaded already.

    The process is forked from one that has done nothing but import: it inherits no peak.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_one_thread) as pool:
        return pool.submit(function, *arguments, **options).result()


def taken(work: Callable[[], R]) -> Taken[R]:
    """Call a function here and return what it took."""
    before, began = _peak(), time.process_time()
    value = work()
    return Taken(value, time.process_time() - began, before, _peak())


def _one_thread() -> None:
    torch.set_num_threads(1)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
