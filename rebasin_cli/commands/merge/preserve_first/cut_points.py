"""Where a model may be cut: at the inputs of modules that are called after what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from rebasin_cli.commands.merge.preserve_first.call_order import CallSpan, inside_of, own_tensors


@dataclass(frozen=True)
class CutPoint:
    """A cut of a model, at the input of a module.

    kept: modules that are done before it; merged: those that start after it. Outermost ones, of
    those that hold tensors.
    """

    join: str
    kept: tuple[str, ...]
    merged: tuple[str, ...]


def cut_points(
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
        yield cut_point_at(model, spans, name)


def cut_point_at(model: nn.Module, spans: Mapping[str, CallSpan], join: str) -> CutPoint:
    """Return the cut at the input of a module."""
    place = spans[join].starts[0]
    full = [n for n, m in model.named_modules() if n in spans and any(True for _ in own_tensors(m))]
    kept = [name for name in full if spans[name].ends[0] < place]
    merged = [name for name in full if spans[name].starts[0] > place]
    return CutPoint(join, _outermost(kept), _outermost([*merged, join], without=join))


def _outermost(names: Sequence[str], without: str | None = None) -> tuple[str, ...]:
    """Return the names that are in none of the others."""
    return tuple(
        name
        for name in names
        if name != without and not any(inside_of(name, other) for other in names)
    )
