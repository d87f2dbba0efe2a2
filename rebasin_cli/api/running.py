"""Running the code of a caller's models without changing the state of the process."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from threading import RLock
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn

from rebasin_cli.api.keywords import count
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import RebasinError, UsageError
from rebasin_cli.models.user.batch_inputs import examples_of_batches
from rebasin_cli.models.user_functions import load_evaluation, load_loader, loader_of
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.network import Network, UserCode, no_data
from rebasin_cli.options.data import Data
from rebasin_cli.options.machine import Machine

_ParamsT = ParamSpec("_ParamsT")
_ReturnT = TypeVar("_ReturnT")
_TURN = RLock()  # what is put back below belongs to the process: two threads would mix it up


@contextmanager
def running_models() -> Iterator[None]:
    """Restore the random states of torch, NumPy and Python afterwards. Threads take turns."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's own
    devices = list(range(torch.cuda.device_count())) if used else []
    with _TURN, torch.random.fork_rng(devices=devices):
        drawn, of_numpy = random.getstate(), np.random.get_state()
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(of_numpy)


def library_verb(verb: Callable[_ParamsT, _ReturnT]) -> Callable[_ParamsT, _ReturnT]:
    """Return a verb that runs as in a fresh process, whatever modes of torch its caller has set.

    New tensors are on the CPU and are no inference tensors, so that they may need gradients. Errors
    spell options as keywords of the library.
    """

    @wraps(verb)
    def run(*args: _ParamsT.args, **keywords: _ParamsT.kwargs) -> _ReturnT:
        cpu = torch.device("cpu")
        # as a mode of torch, it makes each of its functions slower
        on_cpu = nullcontext() if torch.get_default_device() == cpu else cpu
        with torch.inference_mode(False), on_cpu:
            try:
                return verb(*args, **keywords)
            except RebasinError as error:
                error.tell_in_python()
                raise

    return run


def model_list(models: Iterable[_ReturnT]) -> list[_ReturnT]:
    """Return models that are given one by one. Raises TypeError for what is one model."""
    if isinstance(models, str | Mapping | nn.Module | Checkpoint):
        raise TypeError("models: expected several, in a list")
    return list(models)


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
    limit = None if batches is None else count("batches", batches, least=1)
    return UserCode(
        network=network,
        loader=_loader(data),
        evaluate=load_evaluation(evaluate) if isinstance(evaluate, str) else evaluate,
        data=Data(data="the data", batches=limit, evaluate="the evaluation"),
    )


def _loader(data: Any) -> Any:
    if data is None:
        return no_data
    return load_loader(data) if isinstance(data, str) else loader_of(data, "the data")


def first_batch(code: UserCode, machine: Machine) -> Any:
    """Return what the model is traced on: rows of the first batch."""
    return examples_of_batches(Batches(code.loader, "the data", limit=1, device=machine.device))
