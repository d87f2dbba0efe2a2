"""Attention in the layouts that models use, inside one residual block.

Sizes: 5 inputs, a stream of 12, 3 heads with 4 query and key dims and 4 value dims, 7 outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.tracer.traps import Case, Net, case, noise

HEADS, DIM, STREAM = 3, 4, 12

# What is the same in every layout; `q`, `k`, `v` and `o` differ.
AROUND = """
  inp.{weight,bias}: [s]
  o.bias: [s]
  out.weight: [~, s]
"""


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what heads of (batch, head, place, dim) see, as (batch, place, head, dim)."""
    return ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2)


def heads(x: Tensor, count: int = HEADS) -> Tensor:
    """Return (batch, place, head * dim) as (batch, head, place, dim)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def block(mix: Callable[[Any, Tensor], Tensor], *, wide: int = STREAM, **members: Any) -> Case:
    """Return a residual block around `mix`, which gives `wide` units, and two sequences."""
    net = Net(
        lambda m, x: _residual(m, m.inp(x)),
        mix=mix,
        inp=nn.Linear(5, STREAM),
        **members,
        o=nn.Linear(wide, STREAM),
        out=nn.Linear(STREAM, 7),
    )
    return case(net, noise(2, 6, 5), noise(3, 4, 5))


def _residual(m: Any, stream: Tensor) -> Tensor:
    return m.out(stream + m.o(m.mix(m, stream)))


def separate(mix: Callable[[Any, Tensor], Tensor], **members: Any) -> Case:
    """Return a block with one projection for each of queries, keys and values."""
    projections: dict[str, Any] = {name: nn.Linear(STREAM, HEADS * DIM) for name in "qkv"}
    return block(mix, **projections, **members)


def rotated(x: Tensor) -> Tensor:
    """Turn pairs (i, i + half) of the last axis by angles that grow with the place."""
    one, two = x.chunk(2, -1)
    cos, sin = _angles(x, one.shape[-1])
    return torch.cat([one, two], -1) * torch.cat([cos, cos], -1) + torch.cat(
        [-two, one], -1
    ) * torch.cat([sin, sin], -1)


def rotated_interleaved(x: Tensor) -> Tensor:
    """Turn pairs (2 i, 2 i + 1) of the last axis by angles that grow with the place."""
    one, two = x[..., ::2], x[..., 1::2]
    cos, sin = _angles(x, one.shape[-1])
    return torch.stack([one * cos - two * sin, one * sin + two * cos], -1).flatten(-2)


def _angles(x: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    places = torch.arange(x.shape[-2], dtype=x.dtype)
    angles = torch.outer(places, 10.0 ** -torch.arange(pairs, dtype=x.dtype))
    return angles.cos(), angles.sin()
