"""Traps 14 and 24: weights that are computed from other tensors before they are used."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.tracer.traps import WRONG, Net, check, harm, rows, weight


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_weight_norm_as_it_was() -> None:
    with torch.no_grad():  # otherwise the net cannot be copied
        a, b = (nn.utils.weight_norm(layer) for layer in (nn.Linear(5, 8), nn.Linear(8, 3)))
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=a, b=b)
    text = "  a.{weight_g,weight_v,bias}: [h]\n  b.weight_v: [~, h]"
    check(rows(net, 2, 5), "h 8", text)


def test_weight_norm_as_a_parametrization() -> None:
    a, b = (parametrizations.weight_norm(layer) for layer in (nn.Linear(5, 8), nn.Linear(8, 3)))
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=a, b=b)
    text = """
  a.bias: [h]
  a.parametrizations.weight.{original0,original1}: [h]
  b.parametrizations.weight.original1: [~, h]
"""
    check(rows(net, 2, 5), "h 8", text)


def test_weight_norm_over_the_other_axis() -> None:
    a, b = nn.Linear(5, 8), parametrizations.weight_norm(nn.Linear(8, 3), dim=1)
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=a, b=b)
    text = """
  a.{weight,bias}: [h]
  b.parametrizations.weight.{original0,original1}: [~, h]
"""
    check(rows(net, 2, 5), "h 8", text)


def test_spectral_norm_moves_its_vectors() -> None:
    a, b = (parametrizations.spectral_norm(layer) for layer in (nn.Linear(5, 8), nn.Linear(8, 6)))
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=a, b=b)
    text = """
  a.bias: [h]
  a.parametrizations.weight.{original,0._u}: [h]
  b.parametrizations.weight.original: [~, h]
"""
    given = rows(net, 2, 5)
    right = text + "  b.parametrizations.weight.0._v: [h]"
    found = check(given, "h 8", right)
    assert harm(given, found, "h 8", text) >= WRONG


def test_spectral_norm_as_it_was_moves_its_vectors() -> None:
    a, b = (nn.utils.spectral_norm(layer) for layer in (nn.Linear(5, 8), nn.Linear(8, 6)))
    with torch.no_grad():  # otherwise the net cannot be copied
        a.weight, b.weight = a.weight.detach(), b.weight.detach()
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=a, b=b)
    text = """
  a.{weight_orig,weight_u,bias}: [h]
  b.weight_orig: [~, h]
"""
    right = text + "  b.weight_v: [h]"
    given = rows(net, 2, 5)
    found = check(given, "h 8", right)
    assert harm(given, found, "h 8", text) >= WRONG


def test_masks_of_pruning_move_with_their_weights() -> None:
    a, b = (prune.random_unstructured(m, "weight", 0.4) for m in (nn.Linear(5, 8), nn.Linear(8, 6)))
    with torch.no_grad():
        a.weight, b.weight = a.weight.detach(), b.weight.detach()
    net = Net(lambda m, x: m.b(m.a(x).relu()), a=a, b=b)
    text = """
  a.{weight_orig,bias}: [h]
  b.weight_orig: [~, h]
"""
    right = (
        text
        + """
  a.weight_mask: [h]
  b.weight_mask: [~, h]
"""
    )
    given = rows(net, 2, 5)
    found = check(given, "h 8", right)
    assert harm(given, found, "h 8", text) >= WRONG


class Skew(nn.Module):
    """X - X^T"""

    def forward(self, x):
        return x - x.t()


def test_a_parametrization_with_a_transpose() -> None:
    inner = nn.Linear(8, 8)
    parametrize.register_parametrization(inner, "weight", Skew())
    net = Net(
        lambda m, x: m.b(m.inner(m.a(x)).relu()), a=nn.Linear(5, 8), inner=inner, b=nn.Linear(8, 3)
    )
    text = """
  a.{weight,bias}: [h]
  inner.bias: [h]
  inner.parametrizations.weight.original: [h, h]
  b.weight: [~, h]
"""
    check(rows(net, 2, 5), "h 8", text)


def test_a_matrix_that_solving_makes_orthogonal() -> None:
    """Cayley's map; solving also returns a factorisation, which nobody reads."""

    def run(m, x):
        skew, eye = m.s - m.s.t(), torch.eye(8, dtype=x.dtype)
        return m.b((m.a(x) @ torch.linalg.solve(eye + skew, eye - skew)).relu())

    net = Net(run, a=nn.Linear(5, 8), s=weight(8, 8), b=nn.Linear(8, 3))
    text = "  a.{weight,bias}: [h]\n  s: [h, h]\n  b.weight: [~, h]"
    check(rows(net, 2, 5), "h 8", text)
