"""Which modules a model calls, and in which order: where it may be cut in two."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.models.batch import Batch
from rebasin_cli.models.subject import Example
from rebasin_cli.network.scores import called


@dataclass(frozen=True)
class CallSpan:
    """When a module was called: the ticks at the start of each call, and at its end."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class CutPoint:
    """A cut of a model, at the input of a module.

    kept: modules that are done before it; merged: those that start after it. Outermost ones, of
    those that hold tensors.
    """

    join: str
    kept: tuple[str, ...]
    merged: tuple[str, ...]


class CallRecorder:
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
    ticker = CallRecorder()
    with hooked([h for name, module in model.named_modules() for h in ticker.watch(name, module)]):
        run(model, example)
    return ticker.spans()


def weight_layers(model: nn.Module, spans: Mapping[str, CallSpan]) -> list[str]:
    """Return the modules that own a weight of two or more axes, in the order of the first call.

    A module that calls others with tensors of their own is no layer.
    """
    owners = [n for n, m in model.named_modules() if n in spans and _own(m)]
    leaves = [n for n in owners if not any(inside(other, n) for other in owners)]
    weights = [n for n in leaves if any(t.dim() > 1 for t in _own(model.get_submodule(n)))]
    return sorted(weights, key=lambda name: spans[name].starts[0])


def seams(
    model: nn.Module, spans: Mapping[str, CallSpan], layers: Sequence[str], count: int
) -> Iterator[CutPoint]:
    """Yield the cuts that may be possible after the first layers, the latest first.

    Each is at the input of a module that is first called after the last layer that is kept, up
    to the first that is merged.
    """
    after, upto = spans[layers[count - 1]].ends[0], spans[layers[count]].starts[0]
    starts = {name: span.starts[0] for name, span in spans.items()}
    between = [name for name, start in starts.items() if after < start <= upto]
    for name in sorted(between, key=starts.__getitem__, reverse=True):
        yield seam_at(model, spans, name)


def seam_at(model: nn.Module, spans: Mapping[str, CallSpan], join: str) -> CutPoint:
    """Return the cut at the input of a module."""
    place = spans[join].starts[0]
    full = [n for n, m in model.named_modules() if n in spans and any(True for _ in _tensors(m))]
    kept = [name for name in full if spans[name].ends[0] < place]
    merged = [name for name in full if spans[name].starts[0] > place]
    return CutPoint(join, _outermost(kept), _outermost([*merged, join], without=join))


def run(model: nn.Module, example: Example) -> Any:
    """Return what a model returns. Raises UserCodeError if it raises."""
    with torch.no_grad():
        return called(model, Batch(example))


@contextlib.contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Remove hooks at the end of a block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _own(module: nn.Module) -> list[Tensor]:
    return list(module.parameters(recurse=False))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def inside(name: str, outer: str) -> bool:
    """Return whether a module is part of another, by their names."""
    return name != outer and (not outer or name.startswith(f"{outer}."))


def _outermost(names: Sequence[str], without: str | None = None) -> tuple[str, ...]:
    """Return the names that are in none of the others."""
    return tuple(
        name
        for name in names
        if name != without and not any(inside(name, other) for other in names)
    )
