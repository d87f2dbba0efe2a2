"""Trap 12 and what has to stay: channels shuffled again and again, slid over, and places mixed."""

from __future__ import annotations

import torch
from torch import nn

from tests.tracer.traps import WRONG, Net, case, check, convolutions, harm, noise


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
    # Shuffled, 6 + 6 are c * 2. Cut in the middle, c is one + two; shuffled, one * 2 twice.
    text = """
  a.{weight,bias}: ["one + two + q"]
  units.0.weight: ["one + two", q]
  units.0.bias: ["one + two"]
  units.1.weight: ["one * 2", "two * 2"]
  units.1.bias: ["one * 2"]
  b.weight: [~, "one * 4"]
"""
    check(shuffled_units(2), "one 3; two 3; q 6", text)


def test_trap_12_a_cut_inside_a_row_of_factors_fixes_that_row() -> None:
    # Before the third unit there are 3 * 4 channels. Half of them are a row and a half: the second
    # row stays, and with it what `one` was; of 5 * 4 the two rows on either side still move.
    text = """
  a.{weight,bias}: ["3 + two + q"]
  units.0.weight: ["3 + two", q]
  units.0.bias: ["3 + two"]
  units.1.weight: [~, "two * 2"]
"""
    check(shuffled_units(3), "two 3; q 6", text)


def test_rows_beside_one_that_is_cut_still_move() -> None:
    # 5 rows of 2, cut at 5: between two rows and two others the third stays in place.
    def run(m, x):
        x = m.a(x).unflatten(1, (2, 5)).transpose(1, 2).flatten(1, 2)
        one, two = x.chunk(2, 1)
        return m.b(one.relu()) + m.c(two.relu())

    given = convolutions(run, a=nn.Conv2d(3, 10, 1), b=nn.Conv2d(5, 4, 1), c=nn.Conv2d(5, 4, 1))
    text = """
  a.{weight,bias}: ["o + 1 + u + o + 1 + u"]
  b.weight: [~, "o * 2 + 1"]
  c.weight: [~, "1 + u * 2"]
"""
    check(given, "o 2; u 2", text)


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
