"""Which units have a sign: those of gated layers, found in their operators and proved by running.

A product of two activations, unit by unit, leaves each unit of a factor its sign if nothing bends
it on the way and a weight reads the product; what must come out was worked out by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rebasin_cli.commands.spec.trace.explain import explain_trace
from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.expression import dump_expression
from rebasin_cli.spec.language.model import Declaration, Split
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tracer.classes.findings import ClassFindings
from rebasin_cli.tracer.classes.proved_classes import NOT_KEPT, TracedTensors, prove_classes
from rebasin_cli.tracer.classes.signs.signed_units import SignedUnits
from rebasin_cli.tracer.model_trace import Trace, without_classes
from rebasin_cli.tracer.proof.proof import Trial
from rebasin_cli.tracer.trace import trace

D, HIDDEN, WORDS, EXPERTS = 6, 5, 11, 3
Gate = Callable[[Tensor, Tensor], Tensor]  # of the units and the gates


class Gated(nn.Module):
    """Units and gates from weights of their own, and a weight that reads what `gate` returns."""

    def __init__(self, gate: Gate, *, bias: bool = True, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(D, hidden, bias=bias), nn.Linear(D, hidden, bias=bias)
        self.down, self.product = nn.Linear(hidden, D), gate

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(self.product(self.up(x), self.gate(x)))
        return found


class Fused(nn.Module):
    """Both from one weight; `halves`: of its output, to what is read."""

    def __init__(self, halves: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(D, 2 * HIDDEN), nn.Linear(HIDDEN, D)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(self.halves(self.both(x)))
        return found


class Scaled(Gated):
    """A gain of its own on the units."""

    def __init__(self) -> None:
        super().__init__(lambda u, g: u * F.silu(g))
        self.gain = nn.Parameter(torch.rand(HIDDEN) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(self.up(x) * self.gain * F.silu(self.gate(x)))
        return found


class Values(nn.Module):
    """Attention whose output is gated, unit by unit, in front of the weight that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, HIDDEN) for _ in range(3))
        self.gate, self.out = nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, D)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        found: Tensor = self.out(mixed * self.gate(x).sigmoid())
        return found


class Stacked(nn.Module):
    """Experts in one tensor, gates and units fused, chosen by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, EXPERTS)
        self.both = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, D) / 3)
        self.down = nn.Parameter(torch.randn(EXPERTS, D, HIDDEN) / 3)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2)
        gate, up = (self.both[chosen] @ x[..., None, :, None]).squeeze(-1).chunk(2, -1)
        found = (self.down[chosen] @ (F.silu(gate) * up)[..., None]).squeeze(-1)
        return (found * weights[..., None]).sum(-2)


class Listed(nn.Module):
    """Experts in a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, EXPERTS)
        self.experts = nn.ModuleList(Gated(swiglu, bias=False) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], -1)
        return (outputs * weights[..., None, :]).sum(-1)


class Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(WORDS, D), layer, nn.Linear(D, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        found: Tensor = self.head(x + self.layer(x))
        return found


def swiglu(u: Tensor, g: Tensor) -> Tensor:
    return u * F.silu(g)


def traced(layer: nn.Module) -> Trace:
    torch.manual_seed(0)
    inputs = tuple(Example((torch.randint(WORDS, (2, 7)),)) for _ in range(2))
    found = trace(subject_of(Net(layer), examples=lambda _: inputs))
    assert found.proof is not None and found.proof.refuted == {}
    assert NOT_KEPT not in found.reasons.values()  # what was claimed was right
    return found


def signs(found: Trace) -> dict[str, str]:
    """Return the axes that have signs, by tensor, as they are written: `u` units, `s` signs."""
    ((group, declared),) = ((n, d) for n, d in found.explicit.groups.items() if d.maps == "signed")
    assert (declared.size, found.bound.groups[group].size) == (1, 1)
    said = {}
    for name, entry in found.explicit.tensors.items():
        assert not isinstance(entry, Split)
        for tree in entry:
            text = dump_expression(tree)
            if group in text:
                assert declared.per is not None
                text = text.replace(group, "s").replace(declared.per, "u")
                said[name.removeprefix("layer.")] = text
    return said


UP = {"up.weight": "u * s", "up.bias": "u * s", "down.weight": "u * s"}
SIGNED: Mapping[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "SwiGLU": (lambda: Gated(swiglu), UP),
    "GEGLU": (lambda: Gated(lambda u, g: F.gelu(g) * u), UP),
    "an odd function": (lambda: Gated(lambda u, g: g.sigmoid() * torch.tanh(u)), UP),
    "a quotient": (lambda: Gated(lambda u, g: u / (1 + g.square())), UP),
    "zeros filled in": (lambda: Gated(lambda u, g: u.masked_fill(g > 0, 0.0) * g.sigmoid()), UP),
    "bilinear": (
        lambda: Gated(lambda u, g: u * g),
        {"gate.weight": "u * s", "gate.bias": "u * s", "down.weight": "u * s"},
    ),
    "a gain": (Scaled, UP),
    "values": (
        Values,
        {"v.weight": "u * s", "v.bias": "u * s", "out.weight": "u * s"},
    ),
    "fused": (
        lambda: Fused(lambda y: F.silu(y.chunk(2, -1)[0]) * y.chunk(2, -1)[1]),
        {"both.weight": "u + u * s", "both.bias": "u + u * s", "down.weight": "u * s"},
    ),
    "fused, sliced": (
        lambda: Fused(lambda y: y[..., :HIDDEN] * y[..., HIDDEN:].sigmoid()),
        {"both.weight": "u * s + u", "both.bias": "u * s + u", "down.weight": "u * s"},
    ),
    "GLU": (
        lambda: Fused(F.glu),
        {"both.weight": "u * s + u", "both.bias": "u * s + u", "down.weight": "u * s"},
    ),
    "experts in one tensor": (Stacked, {"both": "u + u * s", "down": "u * s"}),
    "experts in a list": (
        Listed,
        {"experts.[e].up.weight": "u * s", "experts.[e].down.weight": "u * s"},
    ),
}


@pytest.mark.parametrize("kind", SIGNED)
def test_the_units_of_gated_layers_have_signs(kind: str) -> None:
    make, wanted = SIGNED[kind]
    assert signs(traced(make())) == wanted


class GainOverHeads(nn.Module):
    """Lengths inside heads taken off, a gain for each unit of all heads, and gates."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(2 * HIDDEN) + 0.5)

    def forward(self, u: Tensor, g: Tensor) -> Tensor:
        heads = F.silu(u).unflatten(-1, (2, HIDDEN))
        return F.normalize(heads, dim=-1).flatten(-2) * self.gain * g.sigmoid()


UNSIGNED: Mapping[str, Callable[[], nn.Module]] = {
    "activations on both sides": lambda: Gated(lambda u, g: F.silu(u) * F.silu(g)),
    "an activation behind": lambda: Gated(lambda u, g: F.gelu(u * F.silu(g))),
    "a number added": lambda: Gated(lambda u, g: (u + 1) * F.silu(g)),
    "a sum with what has none": lambda: Gated(lambda u, g: u * F.silu(g) + g),
    "no product": lambda: Gated(lambda u, g: torch.tanh(u)),
    "another number filled in": lambda: Gated(lambda u, g: u.masked_fill(g > 0, 1.0) * F.silu(g)),
    "a gain over heads, behind activations": lambda: Gated(GainOverHeads(), hidden=2 * HIDDEN),
    "mixed by position": lambda: Gated(lambda u, g: u.softmax(-1) * F.silu(g)),
}


@pytest.mark.parametrize("kind", UNSIGNED)
def test_others_have_none(kind: str) -> None:
    found = traced(UNSIGNED[kind]())
    assert "signed" not in {group.maps for group in found.bound.groups.values()}


def test_a_sign_is_written_in_templates_read_back_and_named() -> None:
    found = traced(nn.Sequential(*(Gated(swiglu, bias=False) for _ in range(3))))
    spec = found.spec
    signed = Declaration(size=1, per="layer.{i}.gate", maps="signed")
    assert spec.groups["layer.{i}.sign"] == signed
    assert parse(dump(spec)) == spec
    row = next(line for line in explain_trace(found).splitlines() if "layer.0.sign" in line)
    assert "layer.0.gate" in row and "signed" in row and "layer.0.up.weight" in row


def test_permutations_alone_have_no_signs() -> None:
    plain = without_classes(traced(Stacked())).explicit
    assert all(declared.maps == "permutation" for declared in plain.groups.values())
    entry = plain.tensors["layer.down"]
    assert not isinstance(entry, Split)
    assert dump_expression(entry[2]) == "layer.both"


def test_signs_that_change_the_outputs_are_taken_back() -> None:
    net = Net(Gated(swiglu, bias=False))
    torch.manual_seed(0)
    words = torch.randint(WORDS, (2, 7))
    found = trace(subject_of(net, examples=lambda _: (Example((words,)),)))
    parts = frozenset({("layer.gate.weight", 0, 0), ("layer.down.weight", 1, 0)})
    wrong = ClassFindings(signs=(SignedUnits("layer.wrong", "layer.gate", parts),))
    plain = without_classes(found).explicit
    with torch.no_grad():
        trial = Trial(net.double(), [((words,), {})], found.outputs, found.returned)
        tensors = TracedTensors(found.infos, found.ties)
        spec, reasons = prove_classes(replace(plain, norms={}), wrong, tensors, trial, 0.0)
    assert spec == plain
    assert reasons == {"layer.wrong": NOT_KEPT}
