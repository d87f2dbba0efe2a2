"""Code of models, run so that nothing of it stays behind in the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

_TURN = RLock()  # what is put back below belongs to the process: two threads would mix it up


@contextmanager
def running_models() -> Iterator[None]:
    """Leave torch's random state, on every device in use, as it was; threads take turns."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's own
    devices = list(range(torch.cuda.device_count())) if used else []
    with _TURN, torch.random.fork_rng(devices=devices):
        yield
