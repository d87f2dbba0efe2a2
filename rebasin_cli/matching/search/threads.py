"""The threads of a matching: each works on a family of its own, or on a piece of a large one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from rebasin_cli.matching.problem.group_families import GroupFamily
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.problem.shared_work import INLINE
from rebasin_cli.matching.problem.similarity_cache import update_work
from rebasin_cli.tensors.torch_threads import one_thread

LIGHT = 5e8  # multiplications of a sweep that are done sooner than handed over


@contextmanager
def threads(settings: Settings, moving: Mapping[str, GroupFamily]) -> Iterator[Executor]:
    """Give what runs families, and keep every product of torch on one thread meanwhile.

    The rounding of a product then does not depend on the load of the machine: what is large is
    cut into pieces that threads share (see `shared_work`).
    """
    precision = torch.get_float32_matmul_precision()
    if settings.fast and settings.device != "cpu":
        torch.set_float32_matmul_precision("high")  # tf32
    try:
        alone = settings.jobs == 1 or sum(map(update_work, moving.values())) < LIGHT
        pool = INLINE if alone else ThreadPoolExecutor(settings.jobs)
        with one_thread(), pool as executor:
            yield executor
    finally:
        torch.set_float32_matmul_precision(precision)
