"""Traps 1 to 4, 10, 11, 13, 15: how heads are packed into axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import SpecError
from tests.tracer.traps import WRONG, Case, Net, case, check, harm, noise, weight
from tests.tracer.traps.attention import (
    AROUND,
    DIM,
    HEADS,
    STREAM,
    attended,
    block,
    heads,
    rotated,
    rotated_interleaved,
    separate,
)

# The stream, the heads, and inside each head the dims of queries and keys and those of values.
GROUPS = "s 12; h 3; d 4 per h; e 4 per h"


def qkv(layout: str, o: str = "h * e") -> str:
    """Return the claim for one fused projection."""
    return (
        f'{AROUND}  qkv.weight: ["{layout}", s]\n  qkv.bias: ["{layout}"]\n  o.weight: [s, "{o}"]'
    )


def apart(q: str, k: str = "", v: str = "h * e", o: str = "") -> str:
    """Return the claim for separate projections; keys like queries, outputs like values."""
    given = {"q": q, "k": k or q, "v": v}
    lines = [f'  {n}.weight: ["{e}", s]\n  {n}.bias: ["{e}"]' for n, e in given.items()]
    return AROUND + "\n".join(lines) + f'\n  o.weight: [s, "{o or v}"]'


def plain(m: Net, x: Tensor) -> Tensor:
    return attended(heads(m.q(x)), heads(m.k(x)), heads(m.v(x))).flatten(2)


def test_separate_projections() -> None:
    check(separate(plain), GROUPS, apart("h * d"))


def fused_unbound(m: Net, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).unflatten(-1, (3, HEADS, DIM)).permute(2, 0, 3, 1, 4).unbind(0)
    return attended(q, k, v).flatten(2)


def fused_selected(m: Net, x: Tensor) -> Tensor:
    parts = m.qkv(x).unflatten(-1, (3, HEADS, DIM)).transpose(2, 3)
    q, k, v = (parts[:, :, :, i].transpose(1, 2) for i in range(3))
    return attended(q, k, v).flatten(2)


def fused_chunked(m: Net, x: Tensor) -> Tensor:
    return attended(*map(heads, m.qkv(x).chunk(3, -1))).flatten(2)


@pytest.mark.parametrize("mix", [fused_unbound, fused_selected, fused_chunked])
def test_trap_1_a_fused_projection_keeps_values_apart_from_queries_and_keys(mix) -> None:
    given = block(mix, qkv=nn.Linear(STREAM, 3 * STREAM))
    found = check(given, GROUPS, qkv("h * d + h * d + h * e"))
    # Queries with the values' dims: what remains when a cut is attributed to the wrong segment.
    assert harm(given, found, GROUPS, qkv("h * e + h * d + h * d")) >= WRONG


def test_trap_2_one_weight_that_reads_two_streams_is_split() -> None:
    given = two_streams(nn.MultiheadAttention(12, 3, batch_first=True))
    groups = "dec 12; enc 12; h 3; d 4 per h; e 4 per h"
    around = """
  a.{weight,bias}: [dec]
  b.{weight,bias}: [enc]
  att.in_proj_bias: ["h * d + h * d + h * e"]
  att.out_proj.weight: [dec, "h * e"]
  att.out_proj.bias: [dec]
  out.weight: [~, dec]
"""
    parts = '[["h * d", dec], ["h * d + h * e", enc]]'
    found = check(given, groups, f"{around}  att.in_proj_weight: {{split: 0, parts: {parts}}}")
    naive = '  att.in_proj_weight: ["h * d + h * d + h * e", enc]'
    assert harm(given, found, groups, around + naive) >= WRONG


def two_streams(att: nn.Module) -> Case:
    net = Net(
        lambda m, x, y: m.out(_crossed(m, m.a(x), m.b(y))),
        a=nn.Linear(5, 12),
        b=nn.Linear(6, 12),
        att=att,
        out=nn.Linear(12, 7),
    )
    return case(net, (noise(2, 5, 5), noise(2, 4, 6)), (noise(3, 3, 5), noise(3, 6, 6)))


def _crossed(m: Net, dec: Tensor, enc: Tensor) -> Tensor:
    return dec + m.att(dec, enc, enc, need_weights=False)[0]


def test_a_weight_that_reads_two_streams_by_slices_is_split() -> None:
    def run(m, x, y):
        q = torch.nn.functional.linear(m.a(x), m.w[:4])
        k = torch.nn.functional.linear(m.b(y), m.w[4:])
        return (q * k) @ m.o

    net = Net(run, a=nn.Linear(5, 12), b=nn.Linear(6, 12), w=weight(8, 12), o=weight(4, 3))
    check(
        case(net, (noise(2, 5), noise(2, 6)), (noise(4, 5), noise(4, 6))),
        "a 12; b 12; h 4",
        """
  a.{weight,bias}: [a]
  b.{weight,bias}: [b]
  w: {split: 0, parts: [[h, a], [h, b]]}
  o: [h]
""",
    )


def per_head_chunks(m: Net, x: Tensor) -> Tensor:
    return attended(*heads(m.qkv(x)).chunk(3, -1)).flatten(2)


def per_head_rows(m: Net, x: Tensor) -> Tensor:
    parts = m.qkv(x).unflatten(-1, (HEADS, 3, DIM)).permute(3, 0, 2, 1, 4)
    return attended(parts[0], parts[1], parts[2]).flatten(2)


@pytest.mark.parametrize("mix", [per_head_chunks, per_head_rows])
def test_trap_3_interleaved_queries_keys_and_values(mix) -> None:
    given = block(mix, qkv=nn.Linear(STREAM, 3 * STREAM))
    found = check(given, GROUPS, qkv("h * (d + d + e)"))
    assert harm(given, found, GROUPS, qkv("h * d + h * d + h * e")) >= WRONG


def falcon(m: Net, x: Tensor) -> Tensor:
    fused = m.qkv(x).unflatten(-1, (3, 2 + 2, DIM))  # (batch, place, kv, q + k + v, dim)
    q, k, v = fused[..., :-2, :], fused[..., [-2], :], fused[..., [-1], :]
    k, v = (row.expand(-1, -1, -1, 2, -1) for row in (k, v))
    q, k, v = (row.flatten(2, 3).transpose(1, 2) for row in (q, k, v))
    return attended(q, k, v).flatten(2)


def test_trap_4_a_list_of_one_index_is_a_slice() -> None:
    given = block(falcon, wide=3 * 2 * DIM, qkv=nn.Linear(STREAM, 3 * 4 * DIM))
    groups = "s 12; kv 3; g 2 per kv; d 4 per kv; e 4 per kv"
    right, o = "kv * (g * d + d + e)", "kv * g * e"
    found = check(given, groups, qkv(right, o))
    swapped = "kv * (g * d + e + d)"
    assert harm(given, found, groups, qkv(swapped, o)) >= WRONG


def reversed_heads(m: Net, x: Tensor) -> Tensor:
    q, k, v = (p(x).unflatten(-1, (DIM, HEADS)).transpose(2, 3) for p in (m.q, m.k, m.v))
    mixed = attended(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return mixed.transpose(2, 3).flatten(2)


def test_trap_11_a_parent_that_comes_after_its_child() -> None:
    given = separate(reversed_heads)
    found = check(given, GROUPS, apart("d * h", v="e * h"))
    assert harm(given, found, GROUPS, apart("h * d", v="e * h")) >= WRONG


def expanded(x: Tensor) -> Tensor:
    return heads(x)[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2)


def interleaved(x: Tensor) -> Tensor:
    return heads(x).repeat_interleave(3, dim=1)


@pytest.mark.parametrize("repeat", [expanded, interleaved])
def test_trap_15_grouped_queries(repeat) -> None:
    given = block(
        lambda m, x: attended(heads(m.q(x), 9), repeat(m.k(x)), repeat(m.v(x))).flatten(2),
        wide=36,
        q=nn.Linear(12, 36),
        k=nn.Linear(12, 12),
        v=nn.Linear(12, 12),
    )
    # 3 key and value heads; 3 queries for each; the dims of a kv head are those of its queries.
    groups = "s 12; kv 3; g 3 per kv; d 4 per kv; e 4 per kv"
    found = check(given, groups, apart("kv * g * d", "kv * d", "kv * e", "kv * g * e"))
    naive = apart("g * kv * d", "kv * d", "kv * e", "g * kv * e")
    assert harm(given, found, groups, naive) >= WRONG


def test_grouped_queries_without_repetition() -> None:
    def mix(m, x):
        q = m.q(x).unflatten(-1, (3, 3, 4)).permute(0, 2, 3, 1, 4)
        k, v = heads(m.k(x))[:, :, None], heads(m.v(x))[:, :, None]
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return mixed.permute(0, 3, 1, 2, 4).flatten(2)

    given = block(mix, wide=36, q=nn.Linear(12, 36), k=nn.Linear(12, 12), v=nn.Linear(12, 12))
    groups = "s 12; kv 3; g 3 per kv; d 4 per kv; e 4 per kv"
    check(given, groups, apart("kv * g * d", "kv * d", "kv * e", "kv * g * e"))


def test_one_key_and_value_for_all_heads() -> None:
    given = block(
        lambda m, x: attended(heads(m.q(x)), m.k(x)[:, None], m.v(x)[:, None]).flatten(2),
        q=nn.Linear(12, 12),
        k=nn.Linear(12, 4),
        v=nn.Linear(12, 4),
    )
    # All heads share the keys, so their dims move together: no parent.
    found = check(given, "s 12; h 3; d 4; e 4", apart("h * d", "d", "e", "h * e"))
    with pytest.raises(SpecError, match="which does not occur beside it"):
        harm(given, found, GROUPS, apart("h * d", "d", "e", "h * e"))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_of_queries_and_keys_inside_each_head(norm) -> None:
    given = separate(
        lambda m, x: attended(
            m.nq(heads(m.q(x))), m.nk(heads(m.k(x))), heads(m.v(x))
        ).flatten(2),
        nq=norm(DIM),
        nk=norm(DIM),
    )  # fmt: skip
    # One scale serves all heads: the dims of queries and keys have no parent any more.
    norms = "\n  nq.{weight,bias}: [d]\n  nk.{weight,bias}: [d]"
    check(given, "s 12; h 3; d 4; e 4 per h", apart("h * d") + norms)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_of_whole_queries_and_keys(norm) -> None:
    given = separate(
        lambda m, x: attended(
            heads(m.nq(m.q(x))), heads(m.nk(m.k(x))), heads(m.v(x))
        ).flatten(2),
        nq=norm(STREAM),
        nk=norm(STREAM),
    )  # fmt: skip
    norms = '\n  nq.{weight,bias}: ["h * d"]\n  nk.{weight,bias}: ["h * d"]'
    check(given, GROUPS, apart("h * d") + norms)


@pytest.mark.parametrize("turn", [rotated, rotated_interleaved])
def test_trap_13_rotary_dims_stay(turn) -> None:
    given = separate(
        lambda m, x: attended(turn(heads(m.q(x))), turn(heads(m.k(x))), heads(m.v(x))).flatten(2)
    )
    found = check(given, "s 12; h 3; e 4 per h", apart("h * 4"))
    assert harm(given, found, GROUPS, apart("h * d")) >= WRONG


def test_trap_13_the_rest_of_a_partial_rotation_moves() -> None:
    def turn(x):
        return torch.cat([rotated(x[..., :4]), x[..., 4:]], -1)

    given = block(
        lambda m, x: attended(turn(heads(m.q(x))), turn(heads(m.k(x))), heads(m.v(x))).flatten(2),
        q=nn.Linear(12, 27),
        k=nn.Linear(12, 27),
        v=nn.Linear(12, 12),
    )
    # 9 dims a head: 4 are turned, 5 are not.
    groups = "s 12; h 3; r 5 per h; e 4 per h"
    found = check(given, groups, apart("h * (4 + r)"))
    assert harm(given, found, groups, apart("h * (r + 4)")) >= WRONG


def test_slopes_fix_the_heads_but_not_the_dims_inside_each() -> None:
    slopes = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)[:, None, None]

    def mix(m, x):
        q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        places = torch.arange(x.shape[1], dtype=torch.float64)
        away = (places[:, None] - places[None, :]).abs()
        scores = q @ k.transpose(-1, -2) / 2 - (slopes * away).to(q.dtype)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    given = separate(mix)
    found = check(given, "s 12; h 3 fixed; d 4 per h; e 4 per h", apart("h * d"))
    assert harm(given, found, GROUPS, apart("h * d")) >= WRONG


def test_trap_10_a_matrix_inside_each_head_takes_the_dims_from_its_parent() -> None:
    # w[h, d, d] with one group on both axes, as in the gates of a recurrent block: x[h] w[h] is
    # summed over d for each of the other d, and added to x.
    def mix(m, x):
        rows = m.a(x).unflatten(-1, (3, 4))
        return (rows + torch.einsum("bthi,hij->bthj", rows, m.w)).flatten(2)

    given = block(mix, a=nn.Linear(12, 12), w=weight(3, 4, 4))
    text = AROUND + '  a.weight: ["h * d", s]\n  a.bias: ["h * d"]\n  o.weight: [s, "h * d"]\n'
    # d is beside h everywhere, on both axes of w: each head may order its dims by itself.
    check(given, "s 12; h 3; d 4 per h", text + "  w: [h, d, d]")


@pytest.mark.parametrize("fused", [True, False])
def test_heads_that_talk_to_each_other_have_dims_of_their_own(fused: bool) -> None:
    # Scores are mixed over heads before and after the softmax: three sets of heads, of which the
    # first has the dims of queries and keys, and the last those of values.
    def mix(m, x):
        if fused:
            q, k, v = m.qkv(x).unflatten(-1, (3, HEADS, DIM)).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = heads(m.q(x)), heads(m.k(x)), heads(m.v(x))
        scores = (q @ k.transpose(-1, -2) / 2).permute(0, 2, 3, 1)
        weights = m.after(m.before(scores).softmax(-2)).permute(0, 3, 1, 2)
        return (weights @ v).transpose(1, 2).flatten(2)

    names = ["qkv"] if fused else "qkv"
    wide = STREAM * (3 if fused else 1)
    members: dict[str, Any] = {n: nn.Linear(STREAM, wide) for n in names}
    given = block(mix, before=nn.Linear(3, 3), after=nn.Linear(3, 3), **members)
    groups = "s 12; h 3; m 3; g 3; d 4 per h; e 4 per g"
    talk = (
        "\n  before.weight: [m, h]\n  before.bias: [m]\n  after.weight: [g, m]\n  after.bias: [g]"
    )
    claim = qkv("h * d + h * d + g * e", "g * e") if fused else apart("h * d", v="g * e")
    found = check(given, groups, claim + talk)
    assert harm(given, found, groups, claim + talk.replace("[m, h]", "[m, ~]")) >= WRONG
    assert harm(given, found, groups, claim + talk.replace("[g, m]", "[h, m]")) >= WRONG


def test_sliding_chunks_leave_heads_and_their_dims_free() -> None:
    # As in Longformer: overlapping windows of places, through the strides of memory.
    def chunks(x, width=2):
        rows, places, dim = x.shape
        size = (rows, places // width - 1, 2 * width, dim)
        return x.as_strided(size, (places * dim, width * dim, dim, 1))

    def mix(m, x):
        q, k, v = (heads(p(x)).reshape(-1, x.shape[1], DIM).contiguous() for p in (m.q, m.k, m.v))
        seen = (chunks(q) @ chunks(k).transpose(-1, -2)).softmax(-1) @ chunks(v)
        mixed = seen[:, :, :2].flatten(1, 2)
        mixed = torch.cat([mixed, seen[:, -1, 2:]], 1)
        return mixed.unflatten(0, (len(x), HEADS)).transpose(1, 2).flatten(2)

    found = check(separate(mix), GROUPS, apart("h * d"))
    assert not found.unknown
