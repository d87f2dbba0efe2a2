"""What type checkers see of the library: mypy reads this file, and nothing runs it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import rebasin_cli as rb


def pairs(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Forms of results, by what goes in."""
    found = assert_type(rb.match(net, path, spec="llama", effort="best"), rb.PairMatching)
    assert_type(found.apply(net), dict[str, Tensor])
    assert_type(found.apply(state, inverse=True), dict[str, Tensor])
    assert_type(found.apply(path), rb.Checkpoint)
    assert_type(found.apply("b.pt"), rb.Checkpoint)
    assert_type(found.apply(rb.open(path)), rb.Checkpoint)
    assert_type(rb.align(path, net, model=net), dict[str, Tensor])
    assert_type(rb.match(net, state, device=torch.device("cpu")).history, tuple[float, ...])
    assert_type(rb.align(net, path, seed=1), rb.Checkpoint)
    assert_type(rb.apply("p.safetensors", state), dict[str, Tensor])
    assert_type(rb.apply(found, "b.pt"), rb.Checkpoint)
    assert_type(bool(rb.verify(net, state)), bool)
    assert_type(found.distance.before, float)
    assert_type(rb.related([net, state, "c.pt"]).pairs[0].excess, float)
    assert_type(found.spec, rb.Spec)


def mixtures(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """One model or several, in memory or read late."""
    assert_type(rb.merge([net, net], weights=[0.5, 0.5]), dict[str, Tensor])
    assert_type(rb.merge([state, state], strategy="many", ref=1), dict[str, Tensor])
    assert_type(rb.merge(["a.pt", "b.pt"]), rb.Checkpoint)
    assert_type(rb.merge(path.glob("*.pt")), rb.Checkpoint)
    assert_type(rb.merge([path, net]), rb.Checkpoint)
    assert_type(rb.lerp(net, state, 0.5), dict[str, Tensor])
    assert_type(rb.fold(net), dict[str, Tensor])
    assert_type(rb.fold("a.pt"), rb.Checkpoint)
    assert_type(rb.rotate([net, state]), list[dict[str, Tensor]])
    assert_type(rb.lerp(net, net, [0.25, 0.75], align=True), list[dict[str, Tensor]])
    assert_type(rb.lerp("a.pt", net, 0.5, mode="slerp"), rb.Checkpoint)
    assert_type(rb.lerp(path, path, [0.5]), list[rb.Checkpoint])


def others(net: nn.Module, inputs: Tensor, path: Path) -> None:
    """Specs, scores and files."""
    assert_type(rb.load_spec("llama"), rb.Spec)
    assert_type(rb.trace(net, inputs).spec, rb.Spec)
    curves = assert_type(rb.barrier(net, net, data=[(inputs, inputs)]), rb.BarrierCurves)
    assert_type(curves.naive[0.5]["loss"], float)
    assert_type(curves.barrier().chord.height, float)
    with rb.open(path, key="ema") as opened:
        assert_type(opened.load("weight"), Tensor)
    assert_type(rb.save(net, path, force=True).path, Path)


def refused(net: nn.Module) -> None:
    """What a type checker tells before it runs."""
    rb.match(net, 3)  # type: ignore[arg-type]
    rb.match(net, net, sed=1)  # type: ignore[call-arg]
    rb.match(net, net, jobs="2")  # type: ignore[arg-type]
    rb.lerp(net, net, 0.5, aling=True)  # type: ignore[call-overload]
