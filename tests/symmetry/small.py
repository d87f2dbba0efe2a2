"""Two small transformers and specs: LayerNorm with biases; RMSNorm with rotary positions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import InMemory, infos

WORDS, TOKENS = 11, 7
LAYER_NORM = """\
rebasin: 1
transposed: [pos]
groups:
  head.{i}: {size: 3}
  qk.{i}: {per: head.{i}, maps: orthogonal}
  vo.{i}: {per: head.{i}, maps: orthogonal}
  stream: {maps: orthogonal}
tensors:
  "{embed.weight,pos}": [~, stream]
  "{i}.{one,two}.{weight,bias}": [stream]
  "{i}.qkv.weight": ["head.{i} * qk.{i} + head.{i} * qk.{i} + head.{i} * vo.{i}", stream]
  "{i}.qkv.bias": ["head.{i} * qk.{i} + head.{i} * qk.{i} + head.{i} * vo.{i}"]
  "{i}.out.weight": [stream, "head.{i} * vo.{i}"]
  "{i}.out.bias": [stream]
  "{i}.up.weight": [hidden.{i}, stream]
  "{i}.up.bias": [hidden.{i}]
  "{i}.down.weight": [stream, hidden.{i}]
  "{i}.down.bias": [stream]
  norm.{weight,bias}: [stream]
  head.weight?: [~, stream]
norms:
  "{i}.one.weight": {kind: layer, readers: ["{i}.qkv.weight"]}
  "{i}.two.weight": {kind: layer, readers: ["{i}.up.weight"]}
  norm.weight: {kind: layer, readers: [head.weight], tied: embed.weight}
"""
ROTARY = """\
rebasin: 1
groups:
  kv.{i}: {size: 2}
  q.{i}: {per: kv.{i}}
  rope.{i}: {per: kv.{i}, maps: rotary}
  vo.{i}: {per: kv.{i}, maps: orthogonal}
  sign.{i}: {size: 1, per: hidden.{i}, maps: signed}
  stream: {maps: orthogonal}
tensors:
  embed.weight: [~, stream]
  "{i}.{one,two}.weight": [stream]
  "{i}.q.weight": ["kv.{i} * q.{i} * rope.{i}", stream]
  "{i}.k.weight": ["kv.{i} * rope.{i}", stream]
  "{i}.v.weight": ["kv.{i} * vo.{i}", stream]
  "{i}.out.weight": [stream, "kv.{i} * q.{i} * vo.{i}"]
  "{i}.gate.weight": [hidden.{i}, stream]
  "{i}.up.weight": ["hidden.{i} * sign.{i}", stream]
  "{i}.down.weight": [stream, "hidden.{i} * sign.{i}"]
  norm.weight: [stream]
  head.weight: [~, stream]
norms:
  "{i}.one.weight": {kind: rms, readers: ["{i}.{q,k,v}.weight"]}
  "{i}.two.weight": {kind: rms, readers: ["{i}.{gate,up}.weight"]}
  norm.weight: {kind: rms, readers: [head.weight]}
"""


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm with biases."""

    def __init__(self, d: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.one, self.two = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_heads(t, self.heads) for t in self.qkv(self.one(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(0, 1).flatten(1))
        return x + self.down(F.gelu(self.up(self.two(x))))


class RotaryBlock(nn.Module):
    """Attention whose keys serve several queries, and SwiGLU, each behind an RMSNorm."""

    def __init__(self, d: int, heads: int, kv: int, dims: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.kv = heads, kv
        self.one, self.two = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.q, self.out = _linear(d, heads * dims), _linear(heads * dims, d)
        self.k, self.v = _linear(d, kv * dims), _linear(d, kv * dims)
        self.gate, self.up, self.down = _linear(d, hidden), _linear(d, hidden), _linear(hidden, d)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        q, k = _turned(_heads(self.q(y), self.heads)), _turned(_heads(self.k(y), self.kv))
        each = self.heads // self.kv
        k, v = (t.repeat_interleave(each, 0) for t in (k, _heads(self.v(y), self.kv)))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
        y = self.two(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Net(nn.Module):
    """Tokens to logits. tied: whether the head is the embedding."""

    def __init__(self, blocks: list[nn.Module], d: int, norm: nn.Module, *, pos: bool, tied: bool):
        super().__init__()
        self.embed, self.norm = nn.Embedding(WORDS, d), norm
        self.pos = nn.Parameter(torch.zeros(TOKENS, d)) if pos else None
        self.head = None if tied else _linear(d, WORDS)
        for k, block in enumerate(blocks):
            self.add_module(str(k), block)
        self.depth = len(blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x if self.pos is None else x + self.pos
        for k in range(self.depth):
            x = self.get_submodule(str(k))(x)
        weight = self.embed.weight if self.head is None else self.head.weight
        return F.linear(self.norm(x), weight)


def _linear(read: int, written: int) -> nn.Linear:
    return nn.Linear(read, written, bias=False)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def _turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * 100.0 ** -(torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def layer_norm(*, tied: bool = False, d: int = 12) -> Net:
    blocks = [Block(d, 3, 10) for _ in range(2)]
    return Net([*blocks], d, nn.LayerNorm(d), pos=True, tied=tied)


def rotary(d: int = 12) -> Net:
    blocks = [RotaryBlock(d, 6, 2, 4, 10) for _ in range(2)]
    return Net([*blocks], d, nn.RMSNorm(d, eps=1e-6), pos=False, tied=False)


NETS = {"layer norm": LAYER_NORM, "rotary": ROTARY}
# Of commands, whose laws are tested on both kinds: one that is quick, and the other.
ONE_QUICK = ("rotary", pytest.param("layer norm", marks=pytest.mark.slow))
# Nets of LayerNorm in which these have no bias.
LACKING: dict[str, tuple[type[nn.Module], ...]] = {
    "no biases": (nn.Linear, nn.LayerNorm),
    "biases of norms": (nn.Linear,),
    "biases of layers": (nn.LayerNorm,),
}
TEXTS = {**NETS, **dict.fromkeys(LACKING, LAYER_NORM.replace('.bias":', '.bias?":'))}


def state_of(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return random weights for a net, its gains and biases among them, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.ones
            if name.split(".")[-2:-1] in (["one"], ["two"], ["norm"]) and name.endswith("weight")
            else torch.zeros
        )(value.shape, dtype=torch.float64)
        + 0.4 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in net.state_dict().items()
    }


@torch.no_grad()
def outputs(net: nn.Module, state: dict[str, Tensor]) -> Tensor:
    net = net.double()
    net.load_state_dict(state)
    found: Tensor = net(torch.arange(TOKENS) * 3 % WORDS)
    return found


@dataclass(frozen=True)
class Case:
    """A net, its random weights, and the same folded."""

    net: nn.Module
    state: dict[str, Tensor]
    plan: FoldPlan

    @property
    def folded(self) -> dict[str, Tensor]:
        source = FoldedNorms(InMemory(self.state), self.plan)
        return {name: source.load(name) for name in source.names()}


def case(kind: str, seed: int = 0, *, d: int = 12, **options: bool) -> Case:
    text = TEXTS[kind]
    net = rotary(d) if kind == "rotary" else layer_norm(d=d, **options)
    for module in net.modules():
        if isinstance(module, LACKING.get(kind, ())):
            module.register_parameter("bias", None)
    state = state_of(net, seed)
    return Case(net, state, FoldPlan(bind(parse(text), infos(InMemory(state)))))
