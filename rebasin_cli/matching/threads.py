"""The threads of a matching: each works on a family of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from rebasin_cli.matching.settings import Settings


@contextmanager
def threads(settings: Settings) -> Iterator[Executor]:
    """Give the pool to run families in, and keep every product on one thread meanwhile.

    The rounding of a product then does not depend on the load of the machine.
    """
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    if settings.fast and settings.device != "cpu":
        torch.set_float32_matmul_precision("high")  # tf32
    try:
        with ThreadPoolExecutor(settings.jobs) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(precision)
