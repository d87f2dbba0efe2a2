"""Trap 10 once more: groups of a norm over channels that stand side by side."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tracer.traps import WRONG, Net, check, harm, rows


def convolutions(run, **members):
    """Return a network on images of 3 channels and 6 x 6 places."""
    return rows(Net(run, **members), 2, 3, 6, 6)


def side_by_side(one: int, two: int, groups: int):
    """Return a network that norms two sets of channels together."""

    def run(m, x):
        return m.b(m.n(torch.cat([m.a(x), m.c(x)], 1)).relu())

    members = {"a": nn.Conv2d(3, one, 1), "c": nn.Conv2d(3, two, 1)}
    norm, last = nn.GroupNorm(groups, one + two), nn.Conv2d(one + two, 5, 1)
    return convolutions(run, **members, n=norm, b=last)


BESIDE = """
  a.{weight,bias}: ["G * i"]
  c.{weight,bias}: ["H * j"]
  n.{weight,bias}: ["G * i + H * j"]
  b.weight: [~, "G * i + H * j"]
"""


def test_trap_10_a_group_norm_of_two_sets_of_channels_has_groups_in_each() -> None:
    given = side_by_side(12, 8, 5)
    found = check(given, "G 3; i 4 per G; H 2; j 4 per H", BESIDE)
    whole = BESIDE.replace("H * j", "h")
    assert harm(given, found, "G 3; i 4 per G; h 8", whole) >= WRONG


def test_trap_10_groups_of_a_norm_that_cross_a_border_leave_pieces() -> None:
    # Groups of 6: the channels 0 to 5, 6 and 7 with 0 to 3 of the other set.
    given = side_by_side(8, 4, 2)
    found = check(given, "G 4 fixed; i 2 per G; H 2 fixed; j 2 per H", BESIDE)
    assert any("groups of 6 cross a concatenation" in axis.reason for axis in found.fixed)
    assert harm(given, found, "G 4; i 2 per G; H 2 fixed; j 2 per H", BESIDE) >= WRONG
    whole = BESIDE.replace("G * i", "g")
    assert harm(given, found, "g 8; H 2 fixed; j 2 per H", whole) >= WRONG


def test_trap_10_groups_that_cross_a_border_with_no_common_length_are_pieces_of_their_own() -> None:
    # Groups of 3: the channels 0 to 2, 3 and 4 with 0 of the other set, 1 to 3, 4 to 6.
    given = side_by_side(5, 7, 4)
    pieces = BESIDE.replace("G * i", "p + q").replace("H * j", "1 + r + s")
    found = check(given, "p 3; q 2; r 3; s 3", pieces)
    crossing = BESIDE.replace("G * i", "g").replace("H * j", "1 + r + s")
    assert harm(given, found, "g 5; r 3; s 3", crossing) >= WRONG


def test_trap_10_fixed_pieces_inside_fixed_pieces_are_both_parents() -> None:
    def run(m, x):
        a = m.a(x)
        crossed = m.n(torch.cat([a, m.c(x)], 1)).relu()
        return m.b(crossed) + m.d(m.k(torch.cat([a, m.e(x)], 1)).relu())

    given = convolutions(
        run,
        a=nn.Conv2d(3, 8, 1),
        c=nn.Conv2d(3, 4, 1),
        n=nn.GroupNorm(2, 12),
        b=nn.Conv2d(12, 5, 1),
        e=nn.Conv2d(3, 8, 1),
        k=nn.GroupNorm(4, 16),
        d=nn.Conv2d(16, 5, 1),
    )
    text = """
  a.{weight,bias}: ["P * G * i"]
  c.{weight,bias}: ["H * j"]
  n.{weight,bias}: ["P * G * i + H * j"]
  b.weight: [~, "P * G * i + H * j"]
  e.{weight,bias}: ["K * k"]
  k.{weight,bias}: ["P * G * i + K * k"]
  d.weight: [~, "P * G * i + K * k"]
"""
    rest = "H 2 fixed; j 2 per H; K 2; k 4 per K"
    check(given, f"P 2 fixed; G 2 fixed per P; i 2 per G; {rest}", text)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_norm_in_front_of_a_convolution_is_folded_where_it_reads_one_place(kernel: int) -> None:
    # At the edge of a picture a larger kernel meets zeros, to which the norm added no bias.
    def run(m, x):
        x = m.a(x).movedim(1, -1)
        return m.b(m.norm(x).movedim(-1, 1)).mean((2, 3))

    net = Net(
        run,
        a=nn.Conv2d(3, 8, 1),
        norm=nn.LayerNorm(8),
        b=nn.Conv2d(8, 4, kernel, padding=kernel // 2),
    )
    text = "  a.{weight,bias}: [h]\n  norm.{weight,bias}: [h]\n  b.weight: [~, h]\n"
    found = check(rows(net, 2, 3, 6, 6), "h 8", text)
    (group,) = found.bound.groups.values()
    assert group.maps == ("orthogonal" if kernel == 1 else "permutation")
