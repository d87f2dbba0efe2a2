"""Trap 12 and what has to stay: channels shuffled again and again, slid over, and places mixed."""

from __future__ import annotations

import torch
from torch import nn

from tests.tracer.traps import WRONG, Net, case, chain, check, convolutions, harm, noise


def shuffled_units(count: int):
    def run(m, x):
        x = m.a(x)
        for unit in range(count):
            one, two = x.chunk(2, 1)
            x = torch.cat([one, m.units[unit](two).relu()], 1)
            x = x.unflatten(1, (2, 6)).transpose(1, 2).flatten(1, 2)
        return m.b(x)

    units = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(count))
    return convolutions(run, a=nn.Conv2d(3, 12, 1), units=units, b=nn.Conv2d(12, 5, 1))


def test_two_units_of_chunk_and_shuffle() -> None:
    # Of 12 channels the second half is read, the first alternates with what is made of it: units
    # move by where they come from and by which convolution reads them.
    text = """
  a.{weight,bias}: ["one + two + q"]
  units.0.weight: ["early + late", q]
  units.0.bias: ["early + late"]
  units.1.weight: [u, "two | late"]
  units.1.bias: [u]
  b.weight: [~, "(one | early) | u"]
"""
    groups = "one 3; two 3; q 6; early 3; late 3; u 6"
    given = shuffled_units(2)
    found = check(given, groups, text)
    for right, wrong in (("two | late", "late | two"), ("(one | early) | u", "one + early + u")):
        assert harm(given, found, groups, text.replace(right, wrong)) >= WRONG


def test_trap_12_a_unit_that_alternates_alone_stays() -> None:
    # The second channel of `a` is read by the third unit, the first one by no unit but `b`.
    text = """
  a.{weight,bias}: ["one + 1 + two + q"]
  units.0.weight: ["1 + early + late", q]
  units.0.bias: ["1 + early + late"]
  units.1.weight: ["first + second", "two | late"]
  units.1.bias: ["first + second"]
  units.2.weight: [u, "(early | 1) | second"]
  units.2.bias: [u]
  b.weight: [~, "((one | 1) | first) | u"]
"""
    groups = "one 2; two 3; q 6; early 2; late 3; first 3; second 3; u 6"
    check(shuffled_units(3), groups, text)


def test_rows_of_pairs_that_are_cut_inside_a_row() -> None:
    # Five rows of two, cut at five: of either half three units come first, of the other two.
    def run(m, x):
        x = m.a(x).unflatten(1, (2, 5)).transpose(1, 2).flatten(1, 2)
        one, two = x.chunk(2, 1)
        return m.b(one.relu()) + m.c(two.relu())

    given = convolutions(run, a=nn.Conv2d(3, 10, 1), b=nn.Conv2d(5, 4, 1), c=nn.Conv2d(5, 4, 1))
    text = """
  a.{weight,bias}: ["h + i + j + k"]
  b.weight: [~, "h | j"]
  c.weight: [~, "k | i"]
"""
    check(given, "h 3; i 2; j 2; k 3", text)


def test_a_shuffle_that_the_library_has_an_operator_for() -> None:
    def run(m, x):
        x = m.s(torch.cat([m.a(x).relu(), m.b(x).relu()], 1))
        return m.c(x[:, :4]) + m.d(x[:, 4:])

    parts = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1), "s": nn.ChannelShuffle(2)}
    given = convolutions(run, **parts, c=nn.Conv2d(4, 3, 1), d=nn.Conv2d(4, 3, 1))
    text = """
  a.{weight,bias}: ["h + i"]
  b.{weight,bias}: ["j + k"]
  c.weight: [~, "h | j"]
  d.weight: [~, "i | k"]
"""
    check(given, "h 2; i 2; j 2; k 2", text)


def shuffle_between(groups: int):
    return chain(
        a=nn.Conv2d(3, 12, 1),
        g=nn.Conv2d(12, 12, 1, groups=3),
        s=nn.ChannelShuffle(3),
        k=nn.Conv2d(12, 20 if groups == 4 else 15, 1, groups=groups),
        b=nn.Conv2d(20 if groups == 4 else 15, 5, 1),
    )


def test_a_channel_shuffle_turns_groups_inside_out() -> None:
    given = shuffle_between(groups=4)
    # After the shuffle the 12 channels are o * G, and the second convolution has 4 groups of 3.
    groups = "G 3; i 4 per G; o 4; p 5 per o"
    text = """
  a.{weight,bias}: ["G * i"]
  g.weight: ["G * o", i]
  g.bias: ["G * o"]
  k.weight: ["o * p", G]
  k.bias: ["o * p"]
  b.weight: [~, "o * p"]
"""
    found = check(given, groups, text)
    naive = text.replace("G * o", "o * G")
    assert harm(given, found, groups, naive) >= WRONG


def test_a_shuffle_into_groups_that_cross_parts_them() -> None:
    # 12 channels are 4 * 3, seen as 3 groups of 4: two of one group come first in each, then one.
    text = """
  a.{weight,bias}: ["h + i + j"]
  g.weight:
    split: 0
    parts: [[p, h], [1, h], [1, h], [1, i], [q, i], [1, i], [1, j], [1, j], [r, j]]
  g.bias: ["p + 3 + q + 3 + r"]
  k.weight: {split: 0, parts: [[s, "p | 1 | 1"], [t, "q | 1 | 1"], [u, "r | 1 | 1"]]}
  k.bias: ["s + t + u"]
  b.weight: [~, "s + t + u"]
"""
    check(shuffle_between(groups=3), "h 4; i 4; j 4; p 2; q 2; r 2; s 5; t 5; u 5", text)


def test_groups_that_are_those_before_and_behind_a_shuffle_are_parted() -> None:
    # The stream makes the groups that channels come from and those that they go to one.
    def run(m, x):
        x = m.a(x).relu()
        y = m.k(m.s(m.g(x).relu()))
        return m.b((x + y).relu())

    given = convolutions(
        run,
        a=nn.Conv2d(3, 12, 1),
        g=nn.Conv2d(12, 8, 1, groups=2),
        s=nn.ChannelShuffle(2),
        k=nn.Conv2d(8, 12, 1, groups=2),
        b=nn.Conv2d(12, 5, 1),
    )
    text = """
  a.{weight,bias}: ["h + i"]
  g.weight: {split: 0, parts: [[p, h], [q, h], [r, i], [s, i]]}
  g.bias: ["p + q + r + s"]
  k.weight: {split: 0, parts: [[h, "p | r"], [i, "q | s"]]}
  k.bias: ["h + i"]
  b.weight: [~, "h + i"]
"""
    check(given, "h 6; i 6; p 2; q 2; r 2; s 2", text)


def test_shuffled_channels_into_grouped_and_transposed_convolutions() -> None:
    # Two halves alternate, each group reads some of both; depthwise, every channel has its own.
    def run(m, x):
        x = m.s(torch.cat([m.a(x).relu(), m.b(x).relu()], 1))
        return m.out(m.k(m.d(x)).relu()) + m.out(m.t(x).relu())

    given = convolutions(
        run,
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(3, 6, 1),
        s=nn.ChannelShuffle(2),
        d=nn.Conv2d(12, 12, 3, padding=1, groups=12),
        k=nn.Conv2d(12, 8, 1, groups=2),
        t=nn.ConvTranspose2d(12, 8, 1, groups=2),
        out=nn.Conv2d(8, 5, 1),
    )
    text = """
  a.{weight,bias}: ["h + i"]
  b.{weight,bias}: ["p + q"]
  d.{weight,bias}: ["(h | p) + (i | q)"]
  k.weight: {split: 0, parts: [[r, "h | p"], [s, "i | q"]]}
  k.bias: ["r + s"]
  t.weight: {split: 0, parts: [["h | p", r], ["i | q", s]]}
  t.bias: ["r + s"]
  out.weight: [~, "r + s"]
"""
    check(given, "h 3; i 3; p 3; q 3; r 4; s 4", text)


def test_a_convolution_along_channels_keeps_their_order() -> None:
    # Efficient channel attention: each channel is weighed by its neighbours.
    def run(m, x):
        x = m.a(x).relu()
        weights = m.slide(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return m.c(m.b(x * weights.movedim(1, 2).unsqueeze(3)).relu())

    given = convolutions(
        run,
        a=nn.Conv2d(3, 8, 1),
        slide=nn.Conv1d(1, 1, 3, padding=1, bias=False),
        b=nn.Conv2d(8, 6, 1),
        c=nn.Conv2d(6, 5, 1),
    )
    text = "  b.{weight,bias}: [h]\n  c.weight: [~, h]"
    found = check(given, "h 6", text)
    free = text.replace("[h]", "[h, c]", 1).replace("{weight,bias}", "weight")
    free += "\n  b.bias: [h]\n  a.{weight,bias}: [c]"
    assert harm(given, found, "h 6; c 8", free) >= WRONG


def mixed_places(gated: bool):
    """Return a network that mixes its 9 places with weights, beside them or as a gate."""

    def run(m, x):
        x = m.a(x).flatten(2).transpose(1, 2)
        one, two = m.up(x).chunk(2, -1) if gated else (x, x)
        mixed = m.places(two.transpose(1, 2)).transpose(1, 2)
        return m.b(one * mixed if gated else one + mixed).mean(1)

    parts = {"up": nn.Linear(4, 12)} if gated else {}
    net = Net(
        run,
        a=nn.Conv2d(3, 4, 2, stride=2),
        places=nn.Linear(9, 9),
        b=nn.Linear(6 if gated else 4, 5),
        **parts,
    )
    return case(net, noise(2, 3, 6, 6), noise(3, 3, 6, 6))


def test_weights_between_places_are_in_the_order_of_the_picture() -> None:
    text = "  a.{weight,bias}: [c]\n  b.weight: [~, c]"
    given = mixed_places(gated=False)
    found = check(given, "c 4", text)
    free = text + "\n  places.weight: [p, p]\n  places.bias: [p]"
    assert harm(given, found, "c 4; p 9", free) >= WRONG


def test_a_gate_over_places_moves_channels_and_no_places() -> None:
    text = "  a.{weight,bias}: [c]\n  up.weight: [h + h, c]\n  up.bias: [h + h]\n  b.weight: [~, h]"
    given = mixed_places(gated=True)
    found = check(given, "c 4; h 6", text)
    free = text + "\n  places.weight: [p, ~]\n  places.bias: [p]"
    assert harm(given, found, "c 4; h 6; p 9", free) >= WRONG


def test_a_table_of_positions_in_the_code_keeps_the_stream_in_order() -> None:
    # Sinusoids of Pegasus-X: what they are added to has a place for each frequency.
    steps = torch.arange(5.0)[:, None] / 10 ** (torch.arange(6) / 3)

    def run(m, x):
        x = m.a(x) + steps.sin().to(x.dtype)
        return m.out(x + m.down(m.up(x).relu()))

    parts = {"a": nn.Linear(3, 6), "up": nn.Linear(6, 8), "down": nn.Linear(8, 6)}
    given = case(Net(run, **parts, out=nn.Linear(6, 4)), noise(2, 5, 3), noise(3, 5, 3))
    text = "  up.{weight,bias}: [h]\n  down.weight: [~, h]"
    found = check(given, "h 8", text)
    free = """
  a.{weight,bias}: [s]
  up.weight: [h, s]
  up.bias: [h]
  down.weight: [s, h]
  down.bias: [s]
  out.weight: [~, s]
"""
    assert harm(given, found, "h 8; s 6", free) >= WRONG


def test_what_is_inside_of_units_that_stand_twice_follows_neither() -> None:
    # Beside its own shuffle a channel is q * q: of each, t would have two orders.
    def run(m, x):
        x = m.a(x)
        x = x + x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
        return m.b(m.t(x).relu())

    depthwise = nn.ConvTranspose2d(4, 8, 1, groups=4)
    given = convolutions(run, a=nn.Conv2d(3, 4, 1), t=depthwise, b=nn.Conv2d(8, 5, 1))
    text = """
  a.{weight,bias}: ["q * q"]
  t.weight: ["q * q", t]
  t.bias: ["q * q * t"]
  b.weight: [~, "q * q * t"]
"""
    check(given, "q 2; t 2", text)


def test_what_a_parent_is_inside_of_is_known_beside_its_children() -> None:
    # p is inside of q, and stands behind v beside it; in b q stands on both axes, so that p alone
    # could give v an order, and q could not.
    def run(m, x):
        x = m.a(x)
        y = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        return m.c(m.b(x) + m.t(y)) + m.d(x.unflatten(1, (2, 4)).sum(1))

    given = convolutions(
        run,
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 4, 1),
        t=nn.ConvTranspose2d(8, 4, 1, groups=2),
        c=nn.Conv2d(4, 5, 1),
        d=nn.Conv2d(4, 5, 1),
    )
    text = """
  a.{weight,bias}: ["v * q * p"]
  b.weight: ["q * m", "v * q * p"]
  {b,t}.bias: ["q * m"]
  t.weight: ["q * p * v", m]
  c.weight: [~, "q * m"]
  d.weight: [~, "q * p"]
"""
    check(given, "v 2; q 2; p 2 per q; m 2 per q", text)


def test_every_third_of_two_parts_that_alternate() -> None:
    # 12 channels, of two convolutions in turn: every third is of either, in turn, too.
    def run(m, x):
        x = torch.stack([m.a(x), m.b(x)], 2).flatten(1, 2).relu()
        return m.c(x[:, ::3]) + m.d(x[:, 1::3]) + m.e(x[:, 2::3])

    ends = {name: nn.Conv2d(4, 5, 1) for name in "cde"}
    given = convolutions(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 6, 1), **ends)
    text = """
  a.{weight,bias}: ["h | i | j"]
  b.{weight,bias}: ["k | l | n"]
  c.weight: [~, "h | l"]
  d.weight: [~, "k | j"]
  e.weight: [~, "i | n"]
"""
    found = check(given, "h 2; i 2; j 2; k 2; l 2; n 2", text)
    naive = text.replace("h | i | j", "h + i + j")
    assert harm(given, found, "h 2; i 2; j 2; k 2; l 2; n 2", naive) >= WRONG


def test_every_second_of_two_parts_that_alternate_is_one_of_them() -> None:
    def run(m, x):
        x = torch.stack([m.a(x), m.b(x)], 2).flatten(1, 2).relu()
        return m.c(x[:, ::2]) + m.d(x[:, 1::2])

    parts = {"a": nn.Conv2d(3, 6, 1), "b": nn.Conv2d(3, 6, 1)}
    given = convolutions(run, **parts, c=nn.Conv2d(6, 5, 1), d=nn.Conv2d(6, 5, 1))
    text = """
  a.{weight,bias}: [h]
  b.{weight,bias}: [i]
  c.weight: [~, h]
  d.weight: [~, i]
"""
    check(given, "h 6; i 6", text)
