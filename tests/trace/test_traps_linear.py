"""Traps: plain layers, sizes, kinds of constants."""

from __future__ import annotations

from torch import nn

from tests.trace.traps import Net, check, rows


def test_an_mlp() -> None:
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    check(rows(net, 2, 5), "h 8", "  a.{weight,bias}: [h]\n  b.weight: [~, h]")
