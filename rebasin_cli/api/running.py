"""Code of models, run so that nothing of it stays behind in the process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.user.batch_inputs import examples_of_batches
from rebasin_cli.models.user_functions import evaluation, loader, loader_of
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.network import Network, UserCode, no_data
from rebasin_cli.options.data import Data
from rebasin_cli.options.machine import Machine

_TURN = RLock()  # what is put back below belongs to the process: two threads would mix it up


@contextmanager
def running_models() -> Iterator[None]:
    """Leave torch's random state, on every device in use, as it was; threads take turns."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's own
    devices = list(range(torch.cuda.device_count())) if used else []
    with _TURN, torch.random.fork_rng(devices=devices):
        yield


def module_among(models: Sequence[object]) -> nn.Module:
    """Return the first of some models that can be run. Raises UsageError if there is none."""
    found = next((model for model in models if isinstance(model, nn.Module)), None)
    if found is None:
        raise UsageError("a model has to be run", hint="model=Net, model=net or model='net.py:Net'")
    return found


def user_code(network: Network, data: Any, evaluate: Any, batches: int | None) -> UserCode:
    """Return the model, the data and the evaluation that were given, as those of a command."""
    if not (evaluate is None or isinstance(evaluate, str) or callable(evaluate)):
        raise TypeError(f"evaluate: a {type(evaluate).__name__} is no function of a module")
    return UserCode(
        network=network,
        loader=_loader(data),
        evaluate=evaluation(evaluate) if isinstance(evaluate, str) else evaluate,
        data=Data(data="the data", batches=batches, evaluate="the evaluation"),
    )


def _loader(data: Any) -> Any:
    if data is None:
        return no_data
    return loader(data) if isinstance(data, str) else loader_of(data, "the data")


def first_batch(code: UserCode, machine: Machine) -> Any:
    """Return what the model is traced on: rows of the first batch."""
    return examples_of_batches(Batches(code.loader, "the data", limit=1, device=machine.device))
