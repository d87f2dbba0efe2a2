"""Which modules a model calls, and in which order: where it may be cut in two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.models.batch import Batch
from rebasin_cli.models.subject import Example
from rebasin_cli.network.layers import with_hooks
from rebasin_cli.network.scoring.scores import call_model


@dataclass(frozen=True)
class CallSpan:
    """When a module was called: the ticks at the start of each call, and at its end."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]


class _CallRecorder:
    """Notes when each module of a model is called."""

    def __init__(self) -> None:
        self._count = 0
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Return the handles of the hooks on a module."""
        starts, ends = self._starts.setdefault(name, []), self._ends.setdefault(name, [])
        return [
            module.register_forward_pre_hook(lambda *_: starts.append(self._tick())),
            module.register_forward_hook(lambda *_: ends.append(self._tick())),
        ]

    def spans(self) -> dict[str, CallSpan]:
        return {n: CallSpan(tuple(s), tuple(self._ends[n])) for n, s in self._starts.items() if s}

    def _tick(self) -> int:
        self._count += 1
        return self._count


def spans_of(model: nn.Module, example: Example) -> dict[str, CallSpan]:
    """Return when each module is called, by name, without those that never are."""
    ticker = _CallRecorder()
    with with_hooks(
        [h for name, module in model.named_modules() for h in ticker.watch(name, module)]
    ):
        run_example(model, example)
    return ticker.spans()


def weight_layers(model: nn.Module, spans: Mapping[str, CallSpan]) -> list[str]:
    """Return the modules that own a weight of two or more axes, in the order of the first call.

    A module that calls others with tensors of their own is no layer.
    """
    owners = [n for n, m in model.named_modules() if n in spans and _own(m)]
    leaves = [n for n in owners if not any(inside_of(other, n) for other in owners)]
    weights = [n for n in leaves if any(t.dim() > 1 for t in _own(model.get_submodule(n)))]
    return sorted(weights, key=lambda name: spans[name].starts[0])


def run_example(model: nn.Module, example: Example) -> Any:
    """Return what a model returns. Raises UserCodeError if it raises."""
    with torch.no_grad():
        return call_model(model, Batch(example))


def _own(module: nn.Module) -> list[Tensor]:
    return list(module.parameters(recurse=False))


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def inside_of(name: str, outer: str) -> bool:
    """Return whether a module is part of another, by their names."""
    return name != outer and (not outer or name.startswith(f"{outer}."))
