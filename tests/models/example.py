"""A small network, what it eats, and how to fill it with values that hide no mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Example:
    """How to build a network and its inputs.

    sizes: what `--set` would have to say for a spec. gain: the variance of what a matrix makes of
    inputs of variance 1; a deep chain of ReLUs needs 2, or what enters it fades.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Inputs]
    sizes: Mapping[str, int] = field(default_factory=dict)
    gain: float = 1.0

    def model(self, seed: int = 0) -> nn.Module:
        """Return the network in float64 and eval mode, every value random."""
        return randomise(self.build().double().eval(), seed, gain=self.gain)

    def batch(self, seed: int = 0) -> Inputs:
        return self.inputs(torch.Generator().manual_seed(seed))


def randomise(model: nn.Module, seed: int, *, gain: float = 1.0) -> nn.Module:
    """Overwrite every parameter and floating buffer, and return the model.

    Usual starting values (ones, zeros, equal running statistics) look the same permuted or not.
    Norm weights stay near one and matrices keep the scale of what passes, so that deep networks
    neither explode nor fade.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point():
            values.data.copy_(_random_like(name, values, gain, generator))
    return model


def _random_like(name: str, values: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    if name.endswith("running_var"):
        return 0.5 + noise.abs()
    if values.dim() == 1:
        return 0.3 * noise + float(name.endswith("weight"))
    return noise * (gain / values[0].numel()) ** 0.5


def without_biases(model: nn.Module) -> nn.Module:
    """Return a model in which no linear layer, convolution or norm has a bias any more."""
    for module in model.modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            if name.endswith("bias"):
                setattr(module, name, None)
    return model


def features(*shape: int) -> Callable[[torch.Generator], Inputs]:
    """Return a maker of one float64 input of a shape."""
    return lambda generator: (torch.randn(shape, generator=generator, dtype=torch.float64),)


def tokens(vocabulary: int, *shape: int) -> Callable[[torch.Generator], Inputs]:
    """Return a maker of one input of token ids."""
    return lambda generator: (torch.randint(vocabulary, shape, generator=generator),)


@torch.no_grad()
def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return what a network makes of its inputs; no example returns more than one tensor."""
    result: Tensor = model(*inputs)
    return result
