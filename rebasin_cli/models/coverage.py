"""How much of a model takes part in a call: of two inputs that run, the richer one is fed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.tensors.trees import tensors_in

LARGEST = 20_000_000  # parameters: gradients of more would double a lot of memory


def parameters_reached(model: nn.Module, example: Example) -> float:
    """Return the share of the parameters that the outputs of a call come from.

    Tensors are counted, not elements, so that small models of one architecture can be compared.
    0.0 where that cannot be told: the model is large, or does not let gradients through. The model
    is on the CPU; its parameters are left without gradients, requiring them as before.
    """
    parameters = [tensor for tensor in model.parameters() if tensor.is_floating_point()]
    if sum(tensor.numel() for tensor in parameters) > LARGEST:
        return 0.0
    before = [tensor.requires_grad for tensor in parameters]
    try:
        with torch.enable_grad(), quiet():
            for tensor in parameters:
                tensor.requires_grad_(True)
            returned = model(*example.args, **example.kwargs)
            total = sum(tensor.sum() for tensor in _differentiable(tensors_in(returned)))
            if isinstance(total, torch.Tensor):
                torch.autograd.backward([total])
    except Exception:  # in-place changes of leaves, for one; the code of any model runs here
        return 0.0
    finally:
        found = sum(tensor.grad is not None for tensor in parameters)
        for tensor, needed in zip(parameters, before, strict=True):
            tensor.grad = None
            tensor.requires_grad_(needed)
    return found / max(1, len(parameters))


def _differentiable(outputs: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield those outputs that depend on parameters."""
    for tensor in outputs:
        if tensor.requires_grad:
            yield tensor.real if tensor.is_complex() else tensor
