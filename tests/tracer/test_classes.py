"""Which groups may be more than permuted: found in the operators of a model, proved by running it.

Small transformers with one thing changed at a time; what must come out was worked out by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import KEEPING_MEAN, ORTHOGONAL, PERMUTATION, Norm
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.symmetry.fold_plan import FoldPlan, can_rotate
from rebasin_cli.tracer.classes.findings import ClassFindings
from rebasin_cli.tracer.classes.proved_classes import (
    NOT_KEPT,
    TracedTensors,
    class_drift,
    prove_classes,
)
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.proof.proof import Trial
from rebasin_cli.tracer.trace import trace
from tests.tracer.class_nets import (
    HEADS,
    PLACES,
    WORDS,
    Begun,
    Centred,
    Cubes,
    D,
    Halved,
    HalvedRms,
    HandMade,
    Length,
    Lifted,
    Named,
    Net,
    OnePlus,
    Rms,
    Scale,
    Shift,
    Sums,
    Turn,
    TwoRoutes,
    adapted,
    half_split,
    interleaved,
    partly,
    shared,
)

EXACT = 1e-9


def traced(net: nn.Module, places: int = PLACES) -> Trace:
    torch.manual_seed(0)
    inputs = tuple(Example((torch.randint(WORDS, (2, places)),)) for _ in range(2))
    found = trace(subject_of(net, examples=lambda _: inputs))
    assert found.proof is not None and found.proof.refuted == {}
    return found


def classes(found: Trace) -> dict[str, str]:
    """Return the class of each kind of group, the same in both blocks."""
    known: dict[str, str] = {}
    for name, group in found.bound.groups.items():
        kind = name.rpartition(".")[2]
        assert known.setdefault(kind, group.maps) == group.maps
    return {kind: maps for kind, maps in known.items() if maps != PERMUTATION}


FREE = {"stream": ORTHOGONAL, "qk": ORTHOGONAL, "vo": ORTHOGONAL}
INSIDE = {"qk": ORTHOGONAL, "vo": ORTHOGONAL}
TURNING = {"stream": ORTHOGONAL, "vo": ORTHOGONAL}
NETS: Mapping[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "layer norm": (Net, FREE),
    "layer norm by hand": (lambda: Net(lambda: HandMade("gamma", "beta")), FREE),
    "centred by hand": (lambda: Net(Centred), FREE),
    "scaled RMS norm": (lambda: Net(HalvedRms), FREE),
    "scaled norm with a bias": (lambda: Net(lambda: Halved(D)), INSIDE),
    "cubes": (lambda: Net(Cubes), INSIDE),
    "sums": (lambda: Net(Sums), INSIDE),
    "RMS norm": (lambda: Net(Rms, bias=False), FREE),
    "its length": (lambda: Net(Length), FREE),
    "one plus": (lambda: Net(OnePlus), FREE),
    "no gains": (
        lambda: Net(lambda: nn.LayerNorm(D, elementwise_affine=False)),
        {**FREE, "stream": KEEPING_MEAN},
    ),
    "tied": (lambda: Net(Rms, tied=True), FREE),
    "tied, with a mean": (lambda: Net(tied=True), FREE),
    "parallel": (lambda: Net(parallel=True), FREE),
    "LayerScale": (lambda: Net(post=Scale), FREE),
    "RoPE": (lambda: Net(turn=half_split), {**TURNING, "rope": "rotary"}),
    "RoPE, interleaved": (lambda: Net(turn=interleaved), {**TURNING, "rope": "rotary-interleaved"}),
    "RoPE of a part": (lambda: Net(turn=partly), {**FREE, "rope": "rotary"}),
    "norm of queries": (lambda: Net(qk_norm=True), TURNING),
    "norm of queries and RoPE": (lambda: Net(turn=half_split, qk_norm=True), TURNING),
    "a number added": (lambda: Net(Rms, between=Shift), {**FREE, "stream": KEEPING_MEAN}),
    "a place of ones": (lambda: Net(Rms, between=Begun), {**FREE, "stream": KEEPING_MEAN}),
    "a level": (lambda: Net(Rms, between=Lifted), {**FREE, "stream": KEEPING_MEAN}),
    "an adapter": (adapted, {**FREE, "a": ORTHOGONAL}),
    "experts": (TwoRoutes, {"down": ORTHOGONAL}),
    "a vector by another name": (lambda: Net(between=Named), INSIDE),
    "one weight behind two norms": (shared, INSIDE),
    "norms behind branches": (lambda: Net(post=Rms), INSIDE),
    "a ReLU on the stream": (lambda: Net(between=nn.ReLU), INSIDE),
    "a norm at the entrance": (lambda: Net(between=lambda: nn.LayerNorm(D)), INSIDE),
    "no last norm": (lambda: Net(last=nn.Identity), INSIDE),
}


@pytest.mark.parametrize("kind", NETS)
def test_the_classes_of_a_network(kind: str) -> None:
    make, wanted = NETS[kind]
    found = traced(make())
    assert classes(found) == wanted
    # What is claimed is right: the proof had nothing to take back.
    assert NOT_KEPT not in found.reasons.values()


@pytest.mark.parametrize("turn", [half_split, interleaved])
def test_as_many_places_as_turned_units(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    dim = D // HEADS
    monkeypatch.setattr("tests.tracer.class_nets.PLACES", dim)
    found = traced(Net(turn=turn), dim)
    wanted = "rotary" if turn is half_split else "rotary-interleaved"
    assert classes(found) == {**TURNING, "rope": wanted}


def test_what_stands_between_two_weights_alone_is_no_stream() -> None:
    assert can_rotate(traced(NETS["no gains"][0]()).bound)
    layers = nn.Sequential(nn.Embedding(WORDS, D), nn.Linear(D, 20), nn.Linear(20, WORDS))
    found = traced(layers).bound
    assert {group.maps for group in found.groups.values()} == {ORTHOGONAL}
    assert not can_rotate(found)


REASONS = {
    "norms behind branches": r"blocks\.0\.post1\.weight: it scales what is added to other units",
    "a ReLU on the stream": "relu looks at each of its units by itself",
    "a norm at the entrance": r"no weight takes over the gain between\.weight",
    "a vector by another name": r"between\.cls may be a gain by its name",
    "one weight behind two norms": r"reads it with gains blocks\.0\.norm2\.weight and blocks\.1",
    "no last norm": r"head\.weight reads it without a gain, others with one",
}


@pytest.mark.parametrize("kind", REASONS)
def test_why_a_stream_is_not_rotated(kind: str) -> None:
    make, _ = NETS[kind]
    found = traced(make()).reasons
    (stream,) = (reason for name, reason in found.items() if name.endswith("stream"))
    assert re.search(REASONS[kind], stream)


@pytest.mark.parametrize("fill", ["masked_fill", "where"])
def test_what_is_filled_behind_a_norm_with_a_bias_is_not_rotated(fill: str) -> None:
    class Filled(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found, away = super().forward(x), x.mean(-1, keepdim=True) > 100  # not as traced
            zero = torch.zeros((), dtype=x.dtype)
            return found.masked_fill(away, 0) if fill != "where" else zero.where(away, found)

    found = traced(Net(lambda: Filled(D)))
    assert classes(found) == INSIDE
    assert f"{fill} of its product" in found.reasons["stream"]


def test_units_that_are_returned_are_not_rotated() -> None:
    net: Any = Net()
    net.head = nn.Identity()
    words = (Example((torch.randint(WORDS, (2, PLACES)),)),)
    found = trace(subject_of(net, examples=lambda _: words), Choices(free_outputs=True))
    assert found.reasons["stream"] == "the model returns its units"
    assert found.bound.groups["stream"].maps == PERMUTATION


def test_what_an_adapter_reads_is_folded_into_all_of_it() -> None:
    found = traced(adapted()).explicit.norms["blocks.0.norm2.weight"]
    assert found.readers == ("blocks.0.up.a", "blocks.0.up.base")


def test_what_reads_each_norm() -> None:
    found = traced(Net(Rms)).explicit.norms
    attention = tuple(f"blocks.0.{name}.weight" for name in ("q", "k", "v"))
    assert found["blocks.0.norm1.weight"] == Norm("rms", attention)
    assert found["blocks.1.norm2.weight"] == Norm("rms", ("blocks.1.up.weight",))
    assert found["norm.weight"] == Norm("rms", ("head.weight",))


def test_a_bias_by_another_name_is_told() -> None:
    found = traced(Net(lambda: HandMade("gamma", "beta"))).explicit.norms
    assert found["norm.gamma"] == Norm("layer", ("head.weight",), bias="norm.beta")


def test_the_norm_before_a_head_that_is_the_embedding() -> None:
    assert traced(Net(OnePlus, tied=True)).explicit.norms["norm.weight"] == Norm(
        "rms", tied="embed.weight", one_plus=("*",)
    )


def test_a_gain_on_a_branch_is_its_writers() -> None:
    found = traced(Net(post=Scale)).explicit.norms
    written = ("blocks.0.o.bias", "blocks.0.o.weight")
    assert found["blocks.0.post1.gamma"] == Norm("scale", writers=written)


def test_norms_of_layers_are_one_line_that_is_read_back() -> None:
    found = traced(Net(Rms))
    assert found.spec.norms["blocks.{i}.norm1.weight"] == Norm(
        "rms", ("blocks.{i}.{q,k,v}.weight",)
    )
    assert len(found.spec.norms) == 3
    assert parse(dump(found.spec)) == found.spec


# A claim that is wrong is caught, and only the group that is to blame loses its class.


def trial_of(found: Trace, net: nn.Module) -> Trial:
    tokens = torch.randint(WORDS, (2, PLACES), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return Trial(net.double(), [((tokens,), {})], found.outputs, found.returned)


def proved(found: Trace, net: nn.Module, claimed: ClassFindings) -> tuple[Any, Mapping[str, str]]:
    plain = replace(found.explicit, norms={})
    groups = {name: replace(g, maps=PERMUTATION) for name, g in plain.groups.items()}
    tensors = TracedTensors(found.infos, found.ties)
    with torch.no_grad():
        spec, reasons = prove_classes(
            replace(plain, groups=groups), claimed, tensors, trial_of(found, net), 0.0
        )
    return {n: d.maps for n, d in spec.groups.items() if d.maps != PERMUTATION}, reasons


def claim(found: Trace, **more: str) -> ClassFindings:
    known = {n: g.maps for n, g in found.bound.groups.items() if g.maps != PERMUTATION}
    over = dict.fromkeys(found.explicit.norms, "stream")
    return ClassFindings({**known, **more}, found.explicit.norms, over)


def test_a_class_that_an_operator_forbids_is_caught() -> None:
    net = Net()
    found = traced(net)
    kept, reasons = proved(found, net, claim(found, **{"blocks.1.up": ORTHOGONAL}))
    assert kept == {n: g.maps for n, g in found.bound.groups.items() if g.maps != PERMUTATION}
    assert reasons == {"blocks.1.up": NOT_KEPT}


@pytest.mark.parametrize(
    "wrong",
    [
        {"norm.weight": Norm("layer", ("blocks.0.q.weight",))},
        {"blocks.0.norm1.weight": Norm("layer", ("blocks.0.q.weight", "blocks.0.k.weight"))},
        {"blocks.0.norm2.weight": Norm("rms", ("blocks.0.up.weight",), one_plus=("*",))},
    ],
    ids=["another reader", "a reader missing", "one plus"],
)
def test_norms_that_fold_otherwise_are_caught(wrong: dict[str, Norm]) -> None:
    net = Net()
    found = traced(net)
    claimed = claim(found)
    kept, reasons = proved(found, net, replace(claimed, norms={**claimed.norms, **wrong}))
    assert "stream" not in kept and kept["blocks.0.vo"] == ORTHOGONAL
    assert reasons == {"stream": NOT_KEPT}


def test_the_drift_of_a_right_spec_is_rounding() -> None:
    net = Net(turn=half_split)
    found = traced(net)
    tensors = TracedTensors(found.infos, found.ties)
    with torch.no_grad():
        assert class_drift(FoldPlan(found.bound), tensors, trial_of(found, net)) < EXACT
