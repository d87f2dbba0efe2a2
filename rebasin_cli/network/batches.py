"""A user's data, pass after pass: the same batches each time, on the device of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch, read_batch
from rebasin_cli.models.user_functions import Loader
from rebasin_cli.network.user_code import users_code


@dataclass(frozen=True)
class Batches:
    """Batches that can be gone through again and again.

    make: yields them from the start. name: what to call them in an error. limit: how many of a
    pass are used; None: all. seed: set before every pass, so that a loader which shuffles gives
    all models the same.
    """

    make: Loader
    name: str = "the data"
    limit: int | None = None
    device: str = "cpu"
    seed: int = 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one pass. Raises UserCodeError if the loader does, or has none."""
        empty = True
        for number, value in enumerate(islice(self._values(), self.limit), 1):
            empty = False
            with users_code(self.name):
                read = read_batch(value, f"batch {number} of {self.name}")
                batch = read.to(torch.device(self.device))
            yield batch
        if empty:
            hint = "yield inputs or (inputs, targets)"
            raise UserCodeError(f"{self.name} has no batch", hint=hint)

    def _values(self) -> Iterator[object]:
        with users_code(self.name), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            values: Iterable[object] = self.make()
            iterator = iter(values)
            state = torch.get_rng_state()
        while True:
            # the loader's own numbers: whatever runs between two batches leaves them alone
            with users_code(self.name), torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                try:
                    value = next(iterator)
                except StopIteration:
                    return
                state = torch.get_rng_state()
            yield value
