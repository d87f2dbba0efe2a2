"""Pre-LN transformers with a fused qkv projection, under two families of names."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIM, HEADS, HIDDEN, DEPTH = 24, 4, 40, 3


class FusedAttention(nn.Module):
    """Rows of `qkv`: all query heads, all key heads, all value heads. names: of the layers."""

    def __init__(
        self,
        *,
        causal: bool = False,
        names: tuple[str, str] = ("qkv", "proj"),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.causal, self.names = causal, names
        self.add_module(names[0], nn.Linear(DIM, 3 * DIM, bias))
        self.add_module(names[1], nn.Linear(DIM, DIM, bias))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv, proj = map(self.get_submodule, self.names)
        fused = qkv(x).view(batch, length, 3, HEADS, dim // HEADS)
        q, k, v = fused.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return proj(mixed.transpose(1, 2).reshape(batch, length, dim))


class TimmBlock(nn.Module):
    """norm1, attn, norm2, mlp.fc1, mlp.fc2."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = FusedAttention()
        self.norm2 = nn.LayerNorm(DIM)
        layers = {"fc1": nn.Linear(DIM, HIDDEN), "act": nn.GELU(), "fc2": nn.Linear(HIDDEN, DIM)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class FlatBlock(nn.Module):
    """ln1, attn, ln2, fc1, fc2."""

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(DIM)
        self.attn = FusedAttention(causal=causal)
        self.ln2 = nn.LayerNorm(DIM)
        self.fc1 = nn.Linear(DIM, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.fc2(F.gelu(self.fc1(self.ln2(x))))


class PatchEmbedding(nn.Module):
    """The convolution that timm keeps one level down, as `proj`."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class TimmVit(nn.Module):
    """A vision transformer under timm's names, for 8 x 8 pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding()
        self.cls_token = nn.Parameter(torch.empty(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.empty(1, 5, DIM))
        self.blocks = nn.Sequential(*(TimmBlock() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = with_class_token(self.patch_embed(x), self.cls_token) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class FlatVit(nn.Module):
    """The same network under short names."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 4, 4)
        self.cls = nn.Parameter(torch.empty(1, 1, DIM))
        self.pos = nn.Parameter(torch.empty(1, 5, DIM))
        self.blocks = nn.Sequential(*(FlatBlock() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = with_class_token(self.patch(x), self.cls) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


class CharGpt(nn.Module):
    """A causal language model; `lm_head` is the token embedding."""

    def __init__(self, vocabulary: int = 17, context: int = 9) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, DIM)
        self.wpe = nn.Embedding(context, DIM)
        self.blocks = nn.Sequential(*(FlatBlock(causal=True) for _ in range(DEPTH)))
        self.ln_f = nn.LayerNorm(DIM)
        self.lm_head = nn.Linear(DIM, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        return self.lm_head(self.ln_f(self.blocks(x)))


class NanoBlock(nn.Module):
    """ln_1, attn, ln_2, mlp.c_fc, mlp.c_proj, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(DIM, bias=False), nn.LayerNorm(DIM, bias=False)
        self.attn = FusedAttention(causal=True, names=("c_attn", "c_proj"), bias=False)
        up, down = nn.Linear(DIM, HIDDEN, bias=False), nn.Linear(HIDDEN, DIM, bias=False)
        self.mlp = nn.Sequential(OrderedDict({"c_fc": up, "gelu": nn.GELU(), "c_proj": down}))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    """CharGpt with the names of GPT-2 inside `transformer`, without biases."""

    def __init__(self, vocabulary: int = 17, context: int = 9) -> None:
        super().__init__()
        wte = nn.Embedding(vocabulary, DIM)
        parts = {
            "wte": wte,
            "wpe": nn.Embedding(context, DIM),
            "h": nn.Sequential(*(NanoBlock() for _ in range(DEPTH))),
            "ln_f": nn.LayerNorm(DIM, bias=False),
        }
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(DIM, vocabulary, bias=False)
        self.lm_head.weight = wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        parts = self.transformer
        x: Tensor = parts["wte"](ids) + parts["wpe"](torch.arange(ids.shape[1]))
        return self.lm_head(parts["ln_f"](parts["h"](x)))


def with_class_token(picture: Tensor, token: Tensor) -> Tensor:
    """Return patches (batch, dim, h, w) as a sequence that starts with the class token."""
    patches = picture.flatten(2).transpose(1, 2)
    return torch.cat([token.expand(len(patches), -1, -1), patches], 1)
