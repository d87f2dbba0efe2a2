"""Traps 19, 24 and others about matrices that are used in unusual ways."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tracer.traps import EXACT, WRONG, Net, case, check, harm, noise, rows, weight


def test_trap_24_a_weight_and_its_transpose() -> None:
    net = Net(lambda m, x: F.linear(F.linear(x, m.w).relu(), m.w.t()), w=weight(8, 5))
    check(rows(net, 2, 5), "h 8", "  w: [h]")


def test_trap_24_a_square_weight_on_a_residual_stream() -> None:
    def run(m, x):
        x = m.a(x)
        return m.b(x + F.linear(x, m.w).relu())

    net = Net(run, a=nn.Linear(5, 8), w=weight(8, 8), b=nn.Linear(8, 3))
    given = rows(net, 2, 5)
    text = "  a.{weight,bias}: [s]\n  b.weight: [~, s]\n"
    found = check(given, "s 8", text + "  w: [s, s]")
    assert harm(given, found, "s 8", text + "  w: [s]") >= WRONG


def test_trap_24_a_recurrence_through_a_square_weight() -> None:
    def run(m, x):
        state = torch.zeros(x.shape[0], 8, dtype=x.dtype)
        for step in x.unbind(1):
            state = torch.tanh(m.a(step) + F.linear(state, m.w))
        return m.b(state)

    net = Net(run, a=nn.Linear(5, 8), w=weight(8, 8), b=nn.Linear(8, 3))
    given = case(net, noise(2, 4, 5), noise(3, 2, 5))
    check(given, "h 8", "  a.{weight,bias}: [h]\n  w: [h, h]\n  b.weight: [~, h]")


def test_trap_24_a_gram_matrix_has_one_group_twice_on_one_axis() -> None:
    def run(m, x):
        x = m.a(x).flatten(2)
        return m.b((x @ x.transpose(1, 2)).flatten(1))

    net = Net(run, a=nn.Conv2d(3, 8, 1), b=nn.Linear(64, 5))
    given = rows(net, 2, 3, 4, 4)
    found = check(given, "c 8", '  a.{weight,bias}: [c]\n  b.weight: [~, "c * c"]')
    assert harm(given, found, "c 8", '  a.{weight,bias}: [c]\n  b.weight: [~, "c * 8"]') >= WRONG


def test_trap_10_a_sum_over_an_axis_has_no_parent_on_either_side() -> None:
    # The products of every pair of columns: column i may not order its rows by itself.
    def run(m, x):
        x = m.a(x).unflatten(-1, (5, 4))
        return m.b((x.transpose(1, 2) @ x).flatten(1))

    given = rows(Net(run, a=nn.Linear(5, 20), b=nn.Linear(16, 3)), 2, 5)
    text = '  a.{weight,bias}: ["o * i"]\n  b.weight: [~, "i * i"]'
    found = check(given, "o 5; i 4", text)
    assert harm(given, found, "o 5 per i; i 4", text) >= WRONG


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.flip(-1),
        lambda x: x.roll(1, -1),
        lambda x: x[..., torch.tensor([2, 0, 3, 1])],
        lambda x: x.index_select(-1, torch.tensor([2, 0, 3, 1])),
        lambda x: F.max_pool1d(x, 3, stride=1, padding=1),
        lambda x: F.avg_pool1d(x, 3, stride=1, padding=1),
    ],
    ids=["flip", "roll", "index", "index_select", "max_pool", "avg_pool"],
)
def test_trap_10_a_fixed_axis_whose_places_meet_others_is_no_parent(move) -> None:
    # u per place would be right if place i met place i only; here it meets another one too.
    def run(m, x):
        x = m.a(x)[:, :, None] * m.table
        return m.b((x * move(x)).sum(1))

    net = Net(run, a=nn.Linear(5, 1), table=weight(6, 4), b=nn.Linear(4, 3))
    given = rows(net, 2, 5)
    found = check(given, "u 6", "  table: [u]")
    assert harm(given, found, "u 6 per p; p 4 fixed", "  table: [u, p]") >= WRONG


def test_trap_10_a_fixed_axis_whose_places_stay_is_a_parent() -> None:
    net = Net(
        lambda m, x: m.b((m.a(x)[:, :, None] * m.table).exp().sum(1)),
        a=nn.Linear(5, 1),
        table=weight(6, 4),
        b=nn.Linear(4, 3),
    )
    # The places are units too: each has 6 terms of its own.
    check(rows(net, 2, 5), "u 6 per p; p 4", "  table: [u, p]\n  b.weight: [~, p]")


def test_trap_24_a_square_added_to_its_transpose() -> None:
    def run(m, x):
        square = m.a(x).unflatten(-1, (4, 4))
        return m.b((square + square.transpose(1, 2)).relu().flatten(1))

    net = Net(run, a=nn.Linear(5, 16), b=nn.Linear(16, 3))
    check(rows(net, 2, 5), "u 4", '  a.{weight,bias}: ["u * u"]\n  b.weight: [~, "u * u"]')


def test_trap_19_sizes_that_are_equal_by_chance_tie_nothing() -> None:
    # 6 rows, 6 inputs, 6 hidden units, 6 places.
    net = Net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 6),
        c=nn.Linear(6, 6),
    )
    text = """
  a.{weight,bias}: [a]
  b.weight: [b, a]
  b.bias: [b]
  c.weight: [~, b]
"""
    check(case(net, noise(6, 6, 6)), "a 6; b 6", text)


def test_outer_products_are_products() -> None:
    net = Net(
        lambda m, x: m.c((m.a(x)[:, :, None] * m.b(x)[:, None]).flatten(1)),
        a=nn.Linear(5, 8),
        b=nn.Linear(5, 6),
        c=nn.Linear(48, 3),
    )
    text = '  a.{weight,bias}: [a]\n  b.{weight,bias}: [b]\n  c.weight: [~, "%s"]'
    given = rows(net, 2, 5)
    found = check(given, "a 8; b 6", text % "a * b")
    assert harm(given, found, "a 8; b 6", text % "b * a") >= WRONG


def test_a_bilinear_layer() -> None:
    net = Net(
        lambda m, x: m.d(m.c(m.a(x), m.b(x))),
        a=nn.Linear(5, 8),
        b=nn.Linear(5, 6),
        c=nn.Bilinear(8, 6, 7),
        d=nn.Linear(7, 3),
    )
    text = """
  a.{weight,bias}: [a]
  b.{weight,bias}: [b]
  c.weight: [c, a, b]
  c.bias: [c]
  d.weight: [~, c]
"""
    check(rows(net, 2, 5), "a 8; b 6; c 7", text)


@pytest.mark.parametrize("fused", [False, True])
def test_gated_units(fused) -> None:
    def run(m, x):
        both = m.a(x)
        return m.b(F.glu(both) if fused else both[..., :8] * both[..., 8:].sigmoid())

    net = Net(run, a=nn.Linear(5, 16), b=nn.Linear(8, 3))
    given = rows(net, 2, 5)
    found = check(given, "h 8", '  a.{weight,bias}: ["h + h"]\n  b.weight: [~, h]')
    assert (
        harm(given, found, "h 8; g 8", '  a.{weight,bias}: ["h + g"]\n  b.weight: [~, h]') > WRONG
    )


def test_a_slope_for_each_unit() -> None:
    net = Net(
        lambda m, x: m.b(m.p(m.a(x))), a=nn.Linear(5, 8), p=nn.PReLU(8), b=nn.Linear(8, 3)
    )  # fmt: skip
    check(rows(net, 2, 5), "h 8", "  a.{weight,bias}: [h]\n  p.weight: [h]\n  b.weight: [~, h]")


def mlp(change, **members):
    """Return a network of two layers with something between them."""
    net = Net(
        lambda m, x: m.b(change(m, m.a(x))), a=nn.Linear(5, 8), b=nn.Linear(8, 3), **members
    )  # fmt: skip
    return rows(net, 3, 5)


HIDDEN = "  a.{weight,bias}: [h]\n  b.weight: [~, h]\n"


def test_a_softmax_over_units() -> None:
    check(mlp(lambda m, x: x.softmax(-1) + x.log_softmax(-1)), "h 8", HIDDEN)


def test_norms_over_units() -> None:
    given = mlp(lambda m, x: m.r(m.n(x)), n=nn.LayerNorm(8), r=nn.RMSNorm(8))
    check(given, "h 8", HIDDEN + "  n.{weight,bias}: [h]\n  r.weight: [h]")


@pytest.mark.parametrize(
    "change",
    [
        lambda m, x: x.cumsum(-1),
        lambda m, x: x.flip(-1),
        lambda m, x: x.roll(1, -1),
        lambda m, x: x.logcumsumexp(-1),
        lambda m, x: torch.fft.fft(x).real,
        lambda m, x: x.diff(dim=-1, prepend=x[:, :1]),
    ],
    ids=["cumsum", "flip", "roll", "logcumsumexp", "fft", "diff"],
)
def test_where_the_order_of_units_matters_they_stay(change) -> None:
    given = mlp(change)
    found = given.traced()
    assert found.proof is not None
    assert (found.bound.groups, found.proof.refuted) == ({}, {})
    assert harm(given, found, "h 8", HIDDEN) >= WRONG


@pytest.mark.parametrize("width", [8, 12, 24, 50])
@pytest.mark.parametrize("shift", [1, 2, 3, 5])
def test_differences_at_a_distance_move_chains_of_equal_length(width, shift) -> None:
    # Unit i goes where unit i + shift goes, so whole chains of them change places: `shift` chains,
    # of two lengths. What an axis is made of changes while it is tied to itself.
    net = Net(
        lambda m, x: m.b((m.a(x)[:, shift:] - m.a(x)[:, :-shift]).tanh()),
        a=nn.Linear(5, width),
        b=nn.Linear(width - shift, 3),
    )
    found = rows(net, 3, 5).traced()
    assert found.proof is not None
    assert (found.proof.refuted, found.proof.difference <= EXACT) == ({}, True)
    lengths = Counter(len(range(first, width, shift)) for first in range(shift))
    sizes = [count for length, count in lengths.items() if length > 1 and count > 1]
    assert sorted(group.size for group in found.bound.groups.values()) == sorted(sizes)


def test_halves_that_are_subtracted_move_together() -> None:
    net = Net(
        lambda m, x: m.b((m.a(x)[:, 8:] - m.a(x)[:, :-8]).tanh()),
        a=nn.Linear(5, 24),
        b=nn.Linear(16, 3),
    )
    text = '  a.{weight,bias}: ["h + h + h"]\n  b.weight: [~, "h + h"]'
    check(rows(net, 3, 5), "h 8", text)


def test_sums_over_time_leave_units_alone() -> None:
    net = Net(
        lambda m, x: m.b(m.a(x).cumsum(1).flip(1).roll(1, 1).sort(1).values[:, -1]),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 3),
    )
    check(case(net, noise(2, 4, 5), noise(1, 6, 5)), "h 8", HIDDEN)


def test_views_that_cross_freeze_all() -> None:
    def run(m, x):
        x = m.a(x)
        return m.b(x.unflatten(-1, (3, 4)).sum(1)) + m.c(x.unflatten(-1, (2, 6)).sum(1))

    net = Net(run, a=nn.Linear(5, 12), b=nn.Linear(4, 3), c=nn.Linear(6, 3))
    given = rows(net, 3, 5)
    found = given.traced()
    assert found.proof is not None
    assert (found.bound.groups, found.proof.refuted) == ({}, {})
    assert any(axis.soft for axis in found.fixed)
    wrong = '  a.{weight,bias}: ["o * i"]\n  b.weight: [~, i]'
    assert harm(given, found, "o 3; i 4", wrong) >= WRONG


def test_trap_16_an_axis_of_one_unit_is_nobodys() -> None:
    net = Net(
        lambda m, x: m.c(m.b(m.a(x)) * m.a(x).mean(-1, keepdim=True)).squeeze(-1),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 1),
        c=nn.Linear(1, 1),
    )
    check(rows(net, 2, 5), "h 8", "  a.{weight,bias}: [h]\n  b.weight: [~, h]")


def test_tied_embeddings_share_the_stream() -> None:
    net = Net(lambda m, x: m.out(m.a(m.emb(x)).relu() + m.emb(x)), emb=nn.Embedding(11, 8))
    net.a, net.out = nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
    net.out.weight = net.emb.weight
    given = case(net, torch.tensor([[1, 2, 3]]), torch.tensor([[4, 0, 10], [7, 8, 9]]))
    text = "  emb.weight: [~, s]\n  a.weight: [s, s]\n  a.bias: [s]\n  out.weight: [~, s]"
    found = check(given, "s 8", text)
    assert dict(found.ties) == {"out.weight": "emb.weight"}
    assert {axis.reason for axis in found.fixed if axis.tensor == "emb.weight"} == {
        "embedding rows"
    }


def test_one_module_under_two_parents() -> None:
    # As in coat_tiny: a depthwise convolution that two blocks call, here before and after a stem.
    shared = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    block = [Net(lambda m, x: x + m.mlp(m.cpe(x)).relu(), cpe=shared) for _ in range(2)]
    for each in block:
        each.mlp = nn.Conv2d(8, 8, 1)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), *block, nn.Conv2d(8, 5, 1))
    text = """
  0.{weight,bias}: [c]
  1.cpe.{weight,bias}: [c]
  2.cpe.{weight,bias}: [c]
  1.mlp.weight: [c, c]
  1.mlp.bias: [c]
  2.mlp.weight: [c, c]
  2.mlp.bias: [c]
  3.weight: [~, c]
"""
    given = rows(net, 2, 3, 5, 5)
    found = check(given, "c 8", text)
    assert dict(found.ties) == {"2.cpe.weight": "1.cpe.weight", "2.cpe.bias": "1.cpe.bias"}


@pytest.mark.parametrize("flat", [False, True])
def test_an_identity_matrix_ties_its_two_axes(flat: bool) -> None:
    """What PointNet multiplies its features by."""

    def run(m, x):
        eye = torch.eye(8, dtype=x.dtype)
        k = m.k(x) + eye.flatten() if flat else m.k(x).view(-1, 8, 8) + eye
        return m.b((m.a(x)[:, None] @ k.view(-1, 8, 8))[:, 0].relu())

    given = rows(Net(run, a=nn.Linear(5, 8), k=nn.Linear(5, 64), b=nn.Linear(8, 3)), 3, 5)
    text = '  a.{weight,bias}: [h]\n  k.{weight,bias}: ["h * %s"]\n  b.weight: [~, %s]'
    found = check(given, "h 8", text % ("h", "h"))
    assert harm(given, found, "h 8; i 8", text % ("i", "i")) >= WRONG


def test_a_mask_that_is_no_identity_fixes_units() -> None:
    def run(m, x):
        return m.b(m.a(x) @ (m.k * torch.eye(8, dtype=x.dtype).roll(1, 0)))

    net = Net(run, a=nn.Linear(5, 8), k=weight(8, 8), b=nn.Linear(8, 3))
    found = rows(net, 3, 5).traced()
    assert found.proof is not None
    assert (found.bound.groups, found.proof.refuted) == ({}, {})
