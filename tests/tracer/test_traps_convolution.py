"""Traps 10 to 12, 16, 17 and 23: channels, groups of channels, and places."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tracer.traps import WRONG, Net, case, chain, check, convolutions, harm, noise, weight


def test_trap_11_a_grouped_convolution_has_channels_inside_groups() -> None:
    given = chain(
        a=nn.Conv2d(3, 12, 1), g=nn.Conv2d(12, 18, 3, groups=3), r=nn.ReLU(), b=nn.Conv2d(18, 5, 1)
    )
    groups = "G 3; i 4 per G; o 6 per G"
    rest = '\n  g.weight: ["G * o", i]\n  g.bias: ["G * o"]\n  b.weight: [~, "G * o"]'
    found = check(given, groups, '  a.{weight,bias}: ["G * i"]' + rest)
    assert harm(given, found, groups, '  a.{weight,bias}: ["i * G"]' + rest) >= WRONG


def test_a_depthwise_convolution_keeps_its_channels() -> None:
    given = chain(a=nn.Conv2d(3, 8, 1), d=nn.Conv2d(8, 8, 3, groups=8), b=nn.Conv2d(8, 5, 1))
    check(given, "c 8", "  a.{weight,bias}: [c]\n  d.{weight,bias}: [c]\n  b.weight: [~, c]")


def test_a_depthwise_convolution_with_a_multiplier() -> None:
    given = chain(
        a=nn.Conv2d(3, 8, 1), d=nn.Conv2d(8, 24, 3, groups=8), r=nn.ReLU(), b=nn.Conv2d(24, 5, 1)
    )
    text = '  a.{weight,bias}: [c]\n  d.{weight,bias}: ["c * m"]\n  b.weight: [~, "c * m"]'
    check(given, "c 8; m 3 per c", text)


def test_a_transposed_convolution_is_stored_as_in_and_out() -> None:
    given = chain(a=nn.Conv2d(3, 8, 1), t=nn.ConvTranspose2d(8, 6, 3), b=nn.Conv2d(6, 5, 1))
    text = "  a.{weight,bias}: [a]\n  t.weight: [a, t]\n  t.bias: [t]\n  b.weight: [~, t]"
    found = check(given, "a 8; t 6", text)
    assert found.explicit.transposed == ("t.weight",)


def test_a_transposed_grouped_convolution() -> None:
    given = chain(
        a=nn.Conv2d(3, 12, 1), t=nn.ConvTranspose2d(12, 18, 3, groups=3), b=nn.Conv2d(18, 5, 1)
    )
    text = """
  a.{weight,bias}: ["G * i"]
  t.weight: ["G * i", o]
  t.bias: ["G * o"]
  b.weight: [~, "G * o"]
"""
    check(given, "G 3; i 4 per G; o 6 per G", text)


def test_trap_10_a_group_norm_keeps_channels_in_their_group() -> None:
    given = chain(a=nn.Conv2d(3, 12, 1), n=nn.GroupNorm(3, 12), r=nn.ReLU(), b=nn.Conv2d(12, 5, 1))
    text = '  a.{weight,bias}: ["G * c"]\n  n.{weight,bias}: ["G * c"]\n  b.weight: [~, "G * c"]'
    found = check(given, "G 3; c 4 per G", text)
    whole = "  a.{weight,bias}: [c]\n  n.{weight,bias}: [c]\n  b.weight: [~, c]"
    assert harm(given, found, "c 12", whole) >= WRONG
    # The other way round: groups of their own for each place inside them.
    assert harm(given, found, "c 4; G 3 per c", text) >= WRONG


def test_trap_16_a_group_norm_of_one_group_or_one_channel_each() -> None:
    for count in (1, 12):
        given = chain(
            a=nn.Conv2d(3, 12, 1), n=nn.GroupNorm(count, 12), r=nn.ReLU(), b=nn.Conv2d(12, 5, 1)
        )
        text = "  a.{weight,bias}: [c]\n  n.{weight,bias}: [c]\n  b.weight: [~, c]"
        check(given, "c 12", text)


def test_an_instance_norm_with_statistics() -> None:
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    given = chain(a=nn.Conv2d(3, 8, 1), n=norm, r=nn.ReLU(), b=nn.Conv2d(8, 5, 1))
    text = """
  a.{weight,bias}: [c]
  n.{weight,bias,running_mean,running_var}: [c]
  b.weight: [~, c]
"""
    check(given, "c 8", text)


def test_an_instance_norm_without_statistics() -> None:
    given = chain(
        a=nn.Conv2d(3, 8, 1), n=nn.InstanceNorm2d(8, affine=True), r=nn.ReLU(), b=nn.Conv2d(8, 5, 1)
    )
    text = "  a.{weight,bias}: [c]\n  n.{weight,bias}: [c]\n  b.weight: [~, c]"
    check(given, "c 8", text)


def test_trap_14_running_statistics_move_and_do_not_vote() -> None:
    given = chain(a=nn.Conv2d(3, 8, 3), n=nn.BatchNorm2d(8), r=nn.ReLU(), b=nn.Conv2d(8, 5, 1))
    rest = "\n  n.{weight,bias}: [c]\n  a.{weight,bias}: [c]\n  b.weight: [~, c]"
    found = check(given, "c 8", "  n.{running_mean,running_var}: [c]" + rest)
    assert set(found.explicit.buffers) == {"n.running_mean", "n.running_var"}
    assert harm(given, found, "c 8", rest) >= WRONG


def test_a_pixel_shuffle_makes_places_of_inner_channels() -> None:
    given = chain(a=nn.Conv2d(3, 24, 1), p=nn.PixelShuffle(2), r=nn.ReLU(), b=nn.Conv2d(6, 5, 1))
    found = check(given, "c 6", '  a.{weight,bias}: ["c * 4"]\n  b.weight: [~, c]')
    naive = '  a.{weight,bias}: ["4 * c"]\n  b.weight: [~, c]'
    assert harm(given, found, "c 6", naive) >= WRONG


def test_a_pixel_unshuffle_makes_inner_channels_of_places() -> None:
    given = chain(a=nn.Conv2d(3, 6, 1), p=nn.PixelUnshuffle(2), b=nn.Conv2d(24, 5, 1))
    check(given, "c 6", '  a.{weight,bias}: [c]\n  b.weight: [~, "c * 4"]')


def test_squeeze_and_excitation() -> None:
    given = convolutions(
        lambda m, x: m.b(_excited(m, m.a(x).relu())),
        a=nn.Conv2d(3, 8, 3),
        down=nn.Linear(8, 4),
        up=nn.Linear(4, 8),
        b=nn.Conv2d(8, 5, 1),
    )
    text = """
  a.{weight,bias}: [c]
  down.weight: [r, c]
  down.bias: [r]
  up.weight: [c, r]
  up.bias: [c]
  b.weight: [~, c]
"""
    check(given, "c 8; r 4", text)


def _excited(m, x):
    return x * m.up(m.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_skip_connections_are_concatenations(mode) -> None:
    def run(m, x):
        top = m.a(x).relu()
        low = F.interpolate(m.b(F.max_pool2d(top, 2)).relu(), scale_factor=2, mode=mode)
        return m.out(m.d(torch.cat([top, m.u(low)], 1)).relu())

    given = convolutions(
        run,
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(6, 8, 1),
        u=nn.Conv2d(8, 6, 1),
        d=nn.Conv2d(12, 7, 1),
        out=nn.Conv2d(7, 5, 1),
    )
    text = """
  a.{weight,bias}: [a]
  b.weight: [b, a]
  b.bias: [b]
  u.weight: [u, b]
  u.bias: [u]
  d.weight: [d, "a + u"]
  d.bias: [d]
  out.weight: [~, d]
"""
    found = check(given, "a 6; b 8; u 6; d 7", text)
    assert harm(given, found, "a 6; b 8; u 6; d 7", text.replace("a + u", "u + a")) >= WRONG


def test_a_standardised_weight() -> None:
    def run(m, x):
        w = m.w - m.w.mean((1, 2, 3), keepdim=True)
        w = w / w.std((1, 2, 3), keepdim=True)
        return m.b(F.conv2d(m.a(x), w, m.bias).relu())

    given = convolutions(
        run, a=nn.Conv2d(3, 8, 1), w=weight(6, 8, 3, 3), bias=weight(6), b=nn.Conv2d(6, 5, 1)
    )
    text = "  a.{weight,bias}: [a]\n  w: [h, a]\n  bias: [h]\n  b.weight: [~, h]"
    check(given, "a 8; h 6", text)


def test_unfolded_patches_are_channels_times_places() -> None:
    given = convolutions(
        lambda m, x: m.w @ F.unfold(m.a(x).relu(), 3), a=nn.Conv2d(3, 8, 1), w=weight(5, 72)
    )
    found = check(given, "c 8", '  a.{weight,bias}: [c]\n  w: [~, "c * 9"]')
    assert harm(given, found, "c 8", '  a.{weight,bias}: [c]\n  w: [~, "9 * c"]') >= WRONG


def test_folded_patches_are_channels_times_places() -> None:
    given = convolutions(
        lambda m, x: m.b(F.fold(m.a(x).flatten(2), (12, 12), 2, stride=2).relu()),
        a=nn.Conv2d(3, 32, 1),
        b=nn.Conv2d(8, 5, 1),
    )
    check(given, "c 8", '  a.{weight,bias}: ["c * 4"]\n  b.weight: [~, c]')


@pytest.mark.parametrize("last", [False, True])
def test_trap_23_a_flattened_image_in_both_layouts(last) -> None:
    given = convolutions(
        lambda m, x: m.out(m.f(_flat(m.a(x).relu(), last)).relu()),
        a=nn.Conv2d(3, 8, 3),
        f=nn.Linear(128, 9),
        out=nn.Linear(9, 5),
    )
    layouts = ["c * 16", "16 * c"]
    text = '\n  a.{weight,bias}: [c]\n  f.weight: [f, "%s"]\n  f.bias: [f]\n  out.weight: [~, f]'
    found = check(given, "c 8; f 9", text % layouts[last])
    assert harm(given, found, "c 8; f 9", text % layouts[not last]) >= WRONG


def _flat(x, last):
    return (x.permute(0, 2, 3, 1) if last else x).flatten(1)


def test_trap_23_pooling_to_a_fixed_size_before_the_flatten() -> None:
    given = case(
        Net(
            lambda m, x: m.f(m.pool(m.a(x).relu()).flatten(1)),
            a=nn.Conv2d(3, 8, 3),
            pool=nn.AdaptiveAvgPool2d(3),
            f=nn.Linear(72, 5),
        ),
        noise(2, 3, 4, 4),  # two places are stretched to three
        noise(1, 3, 9, 9),
    )
    check(given, "c 8", '  a.{weight,bias}: [c]\n  f.weight: [~, "c * 9"]')


def test_trap_17_windows_rolls_and_merged_patches() -> None:
    def run(m, x):
        x = m.stem(x).permute(0, 2, 3, 1).roll((1, 1), (1, 2))  # (batch, 6, 6, c)
        windows = x.unflatten(1, (3, 2)).unflatten(3, (3, 2)).transpose(2, 3)
        tokens = windows.flatten(3, 4).flatten(0, 2)  # (windows, 4 places, c)
        tokens = tokens + m.two(m.one(tokens.transpose(1, 2)).relu()).transpose(1, 2)
        x = tokens.view(-1, 3, 3, 2, 2, 8).transpose(2, 3).reshape(-1, 6, 6, 8)
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return m.out(m.merge(torch.cat(corners, -1)).relu())

    given = convolutions(
        run,
        stem=nn.Conv2d(3, 8, 1),
        one=nn.Linear(4, 10),
        two=nn.Linear(10, 4),
        merge=nn.Linear(32, 16),
        out=nn.Linear(16, 5),
    )
    text = """
  stem.{weight,bias}: [c]
  one.{weight,bias}: [t]
  two.weight: [~, t]
  merge.weight: [r, "c + c + c + c"]
  merge.bias: [r]
  out.weight: [~, r]
"""
    check(given, "c 8; t 10; r 16", text)
