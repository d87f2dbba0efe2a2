"""A Llama under Hugging Face's names: RMSNorm, rotary positions, grouped queries, gated units.

And what its relatives add: biases of queries, keys and values in Qwen 2, of every layer in some,
norms of queries and keys in Qwen 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIM, KV_HEADS, QUERIES, HEAD_DIM, HIDDEN, VOCABULARY, DEPTH = 20, 4, 3, 6, 28, 19, 2


@dataclass(frozen=True)
class Extras:
    """What a relative has and a Llama has not."""

    qkv_bias: bool = False
    other_biases: bool = False
    norms: bool = False


LLAMA = Extras()


class RmsNorm(nn.Module):
    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    """KV_HEADS keys and values, each shared by QUERIES query heads that follow one another."""

    def __init__(self, extras: Extras) -> None:
        super().__init__()
        self.q_proj = nn.Linear(DIM, KV_HEADS * QUERIES * HEAD_DIM, bias=extras.qkv_bias)
        self.k_proj = nn.Linear(DIM, KV_HEADS * HEAD_DIM, bias=extras.qkv_bias)
        self.v_proj = nn.Linear(DIM, KV_HEADS * HEAD_DIM, bias=extras.qkv_bias)
        self.o_proj = nn.Linear(KV_HEADS * QUERIES * HEAD_DIM, DIM, bias=extras.other_biases)
        self.q_norm = RmsNorm(HEAD_DIM) if extras.norms else nn.Identity()
        self.k_norm = RmsNorm(HEAD_DIM) if extras.norms else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(part(x)) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.q_norm(q), self.k_norm(k)
        k, v = (part.repeat_interleave(QUERIES, 1) for part in (rotated(k), v))
        mixed = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    def __init__(self, extras: Extras) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(DIM, HIDDEN, bias=extras.other_biases)
        self.up_proj = nn.Linear(DIM, HIDDEN, bias=extras.other_biases)
        self.down_proj = nn.Linear(HIDDEN, DIM, bias=extras.other_biases)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, extras: Extras) -> None:
        super().__init__()
        self.self_attn = Attention(extras)
        self.mlp = GatedMlp(extras)
        self.input_layernorm = RmsNorm()
        self.post_attention_layernorm = RmsNorm()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, extras: Extras) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, DIM)
        self.layers = nn.Sequential(*(Layer(extras) for _ in range(DEPTH)))
        self.norm = RmsNorm()

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.layers(self.embed_tokens(ids)))


class Llama(nn.Module):
    """The whole network: ids (batch, length) to logits."""

    def __init__(self, extras: Extras = LLAMA) -> None:
        super().__init__()
        self.model = Body(extras)
        self.lm_head = nn.Linear(DIM, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.model(ids))


def heads(x: Tensor) -> Tensor:
    """Return (batch, heads, length, HEAD_DIM) of (batch, length, heads * HEAD_DIM)."""
    return x.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)


def rotated(x: Tensor) -> Tensor:
    """Return x with dims i and i + HEAD_DIM / 2 rotated by position, which fixes their order."""
    half = HEAD_DIM // 2
    speed = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * speed
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
