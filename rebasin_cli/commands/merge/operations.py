"""What a pass of a model costs: its products of matrices and convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from rebasin_cli.commands.merge.merged import ModelSize
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.subject import Example
from rebasin_cli.network.user_code import users_code
from rebasin_cli.tracer.recording.dispatch import OperatorMode


class Operations(OperatorMode):
    """Counts operations by torch's table. Its own counter takes seconds to import a compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.count += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def size_of(model: nn.Module, example: Example) -> ModelSize:
    """Return the size of a model, which is run on an example."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelSize(parameters, operations_of(model, example))


def operations_of(model: nn.Module, example: Example) -> int:
    """Return the operations of a pass for one of the inputs: products, counted twice."""
    with Operations() as counted, torch.no_grad(), users_code("the model"):
        model(*example.args, **example.kwargs)
    count: int = counted.count
    return count // max(1, Batch(example).rows)
