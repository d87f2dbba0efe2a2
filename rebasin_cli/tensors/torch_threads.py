"""How many threads torch has, on which the last digits of sums may depend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def one_thread() -> AbstractContextManager[None]:
    """Keep every operation of torch on one thread meanwhile, in threads made meanwhile too."""
    return on_threads(1)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Keep torch on a number of threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
