"""Small networks for one construct of the spec language each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Expert(nn.Module):
    """A gated unit: w2 (silu(w1 x) * w3 x)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Mixture(nn.Module):
    """A router that sends each row to the two best of several experts."""

    def __init__(self, dim: int, hidden: int, count: int) -> None:
        super().__init__()
        self.router = nn.Linear(dim, count)
        self.experts = nn.ModuleList(Expert(dim, hidden) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        best = scores.topk(2, -1)
        shares = torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(-1))
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return (made * shares[..., None, :]).sum(-1)


class MoeMlp(nn.Module):
    """Two mixtures on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, 12)
        self.layers = nn.ModuleList(Mixture(12, hidden=7, count=5) for _ in range(2))
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.out(x)


class Interleaved(nn.Module):
    """One fused projection with rows ordered group by group: its queries, its key, its value."""

    def __init__(self, groups: int, queries: int, dim: int = 5) -> None:
        super().__init__()
        self.groups, self.queries, self.dim = groups, queries, dim
        self.inp = nn.Linear(6, 12)
        self.qkv = nn.Linear(12, groups * (queries + 2) * dim)
        self.dense = nn.Linear(groups * queries * dim, 12)
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        fused = self.qkv(x).unflatten(-1, (self.groups, self.queries + 2, self.dim))
        fused = fused.permute(0, 2, 3, 1, 4)
        q, k, v = fused.split([self.queries, 1, 1], 2)
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(x + self.dense(mixed.permute(0, 3, 1, 2, 4).flatten(2)))


class Alibi(nn.Module):
    """Attention as in BLOOM: what head h sees of the past fades at a slope that belongs to h."""

    def __init__(self, heads: int = 4, dim: int = 5) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.inp = nn.Linear(6, 12)
        self.qkv = nn.Linear(12, heads * 3 * dim)
        self.dense = nn.Linear(heads * dim, 12)
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, 3, self.dim)).permute(3, 0, 2, 1, 4)
        places = torch.arange(x.shape[1], dtype=x.dtype)
        slopes = 2.0 ** -torch.arange(1, self.heads + 1, dtype=x.dtype)
        fading = slopes[:, None, None] * (places[None, :] - places[:, None]).clamp(max=0)
        mixed = (q @ k.transpose(-1, -2) + fading).softmax(-1) @ v
        return self.out(x + self.dense(mixed.transpose(1, 2).flatten(2)))


class Recurrent(nn.Module):
    """Two layers of LSTM and a linear head on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 7, num_layers=2, batch_first=True)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class CrossAttention(nn.Module):
    """One in_proj_weight whose query rows read one stream and whose other rows read another."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(5, 12)
        self.encoder = nn.Linear(6, 12)
        self.attn = nn.MultiheadAttention(12, 4, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x, memory = self.decoder(x), self.encoder(memory)
        mixed, _ = self.attn(x, memory, memory, need_weights=False)
        return self.head(x + mixed)
