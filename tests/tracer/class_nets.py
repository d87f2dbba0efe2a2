"""Small transformers with one thing changed at a time, for tests of what may be rotated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D, HEADS, HIDDEN, WORDS, PLACES = 12, 3, 20, 17, 5
Turn = Callable[[Tensor], Tensor]


class Gain(nn.Module):
    """A gain of its own, named as some code names it, and a bias where `bias` names one."""

    def __init__(self, gain: str = "weight", bias: str = "") -> None:
        super().__init__()
        self.gain, self.bias = gain, bias
        for name in filter(None, (gain, bias)):
            setattr(self, f"{name}", nn.Parameter(torch.randn(D) * 0.1 + 1))

    def scaled(self, x: Tensor) -> Tensor:
        y = x * getattr(self, self.gain)
        return y + getattr(self, self.bias) if self.bias else y


class Rms(Gain):
    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class OnePlus(Gain):
    def forward(self, x: Tensor) -> Tensor:
        y = x.float() if x.dtype == torch.float16 else x
        return (
            y / (y * y).mean(-1, keepdim=True).add(1e-6).sqrt() * (1.0 + getattr(self, self.gain))
        )


class HandMade(Gain):
    """LayerNorm written out."""

    def forward(self, x: Tensor) -> Tensor:
        away = x - x.mean(-1, keepdim=True)
        return self.scaled(away / (away.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt())


class Centred(Gain):
    """The mean taken off, and then the RMS norm."""

    def forward(self, x: Tensor) -> Tensor:
        y = x - x.mean(-1, keepdim=True)
        return self.scaled(y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-6))


class Cubes(Gain):
    """A norm that is no length: the third power."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x / (x.pow(3).mean(-1, keepdim=True).abs() + 1))


class Sums(Gain):
    """A norm that is no Euclidean length."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(F.normalize(x, p=1.0, dim=-1))


class Halved(nn.LayerNorm):
    """What a norm returns, bias and all, is scaled by a number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


class HalvedRms(Rms):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


class Length(Gain):
    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(F.normalize(x, dim=-1))


def nothing(x: Tensor) -> Tensor:
    return x


def angles(size: int) -> Tensor:
    rates = 0.7 ** torch.arange(size // 2, dtype=torch.float64)
    return torch.arange(PLACES, dtype=torch.float64)[:, None] * rates


def half_split(x: Tensor) -> Tensor:
    turned = torch.cat([angles(x.shape[-1])] * 2, -1)
    one, two = x.chunk(2, -1)
    swapped = torch.cat([-two, one], -1)
    return x * turned.cos().to(x.dtype) + swapped * turned.sin().to(x.dtype)


def interleaved(x: Tensor) -> Tensor:
    turned = angles(x.shape[-1]).repeat_interleave(2, -1)
    swapped = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * turned.cos().to(x.dtype) + swapped * turned.sin().to(x.dtype)


def partly(x: Tensor) -> Tensor:
    return torch.cat([half_split(x[..., :2]), x[..., 2:]], -1)


class Block(nn.Module):
    """A block whose parts can be chosen; `parallel`: attention and MLP read one norm."""

    def __init__(
        self,
        norm: Callable[[], nn.Module],
        turn: Turn,
        *,
        bias: bool,
        post: Callable[[], nn.Module],
        parallel: bool,
        qk_norm: bool,
    ) -> None:
        super().__init__()
        self.turn, self.parallel = turn, parallel
        self.norm1, self.norm2 = norm(), nn.Identity() if parallel else norm()
        self.post1, self.post2 = post(), post()
        self.q, self.k, self.v = (nn.Linear(D, D, bias=bias) for _ in range(3))
        self.o = nn.Linear(D, D, bias=bias)
        self.up, self.down = nn.Linear(D, HIDDEN, bias=bias), nn.Linear(HIDDEN, D, bias=bias)
        self.q_norm = nn.Parameter(torch.rand(D // HEADS) + 0.5) if qk_norm else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        mixed = self.post1(self.o(self.attended(y)))
        z = y if self.parallel else self.norm2(x + mixed)
        return x + mixed + self.post2(self.down(F.gelu(self.up(z))))

    def attended(self, y: Tensor) -> Tensor:
        q, k, v = (
            f(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        if self.q_norm is not None:
            q, k = (F.normalize(a, dim=-1) * self.q_norm for a in (q, k))
        weights = (self.turn(q) @ self.turn(k).transpose(-1, -2)).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


class Net(nn.Module):
    def __init__(
        self,
        norm: Callable[[], nn.Module] = lambda: nn.LayerNorm(D),
        turn: Turn = nothing,
        *,
        last: Callable[[], nn.Module] | None = None,
        between: Callable[[], nn.Module] = nn.Identity,
        post: Callable[[], nn.Module] = nn.Identity,
        tied: bool = False,
        bias: bool = True,
        **options: bool,
    ) -> None:
        super().__init__()
        options = {"parallel": False, "qk_norm": False, **options}
        self.embed = nn.Embedding(WORDS, D)
        self.place = nn.Parameter(torch.randn(1, PLACES, D))
        self.blocks = nn.ModuleList(
            Block(norm, turn, bias=bias, post=post, **options) for _ in range(2)
        )
        self.between, self.norm = between(), (last or norm)()
        self.head = nn.Linear(D, WORDS, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.between(self.embed(tokens) * D**0.5 + self.place)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Scale(nn.Module):
    """LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(D))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Shift(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5


class Begun(nn.Module):
    """A place of ones in front."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 1, 0), value=1.0)


class Lifted(nn.Module):
    """One number of the model's own for all units."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.level.expand(D)


class Named(nn.Module):
    """A vector that is added, whose name does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(D))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cls


class LowRank(nn.Module):
    """A weight and an adapter in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(HIDDEN, D) / 3)
        self.a, self.b = nn.Parameter(torch.randn(2, D)), nn.Parameter(torch.randn(HIDDEN, 2))

    def forward(self, y: Tensor) -> Tensor:
        return F.linear(y, self.base + self.b @ self.a)


def adapted() -> nn.Module:
    net = Net(Rms)
    net.blocks[0].up = LowRank()
    return net


def shared() -> nn.Module:
    net = Net(Rms)
    net.blocks[1].up = net.blocks[0].up
    return net


class TwoRoutes(nn.Module):
    """Experts chosen by a router that reads what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(WORDS, D), Rms()
        self.router = nn.Linear(D, 3, bias=False)
        self.up = nn.Parameter(torch.randn(3, HIDDEN, D) / 3)
        self.down = nn.Parameter(torch.randn(3, D, HIDDEN) / 3)
        self.last, self.head = Rms(), nn.Linear(D, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.norm(x)
        weights, chosen = self.router(y).softmax(-1).topk(2)
        up, down = self.up[chosen], self.down[chosen]
        hidden = F.silu((up @ y[..., None, :, None]).squeeze(-1))
        found = (down @ hidden[..., None]).squeeze(-1)
        return self.head(self.last(x + (found * weights[..., None]).sum(-2)))
