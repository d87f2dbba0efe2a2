"""Laws of binding: blocks cover a tensor exactly, and permuting through them is right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.permutation import random_permutation
from rebasin_cli.permuted import take
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.cut_blocks import axis_size, cut_pieces
from rebasin_cli.spec.binding.entry_match import Placement
from rebasin_cli.spec.language.model import Fixed, Named, concatenation, interleaving, product
from rebasin_cli.spec.language.parse import parse
from tests.spec.shapes import bound, covers_exactly, infos, positions, spec_text

SIZES = {"x": 2, "y": 3, "z": 1, "n": 4}


def alternating(tree, more):
    """Return an expression between fixed units, of which the first part may have one more."""
    size = axis_size(tree, SIZES)
    return interleaving([Fixed(size + more), tree, Fixed(size)])


EXPRESSIONS = st.recursive(
    st.one_of(st.sampled_from(sorted(SIZES)).map(Named), st.integers(1, 3).map(Fixed)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(product),
        st.lists(inner, min_size=2, max_size=3).map(concatenation),
        st.builds(alternating, inner, st.integers(0, 1)),
    ),
    max_leaves=5,
)


def owner(name):
    return None if name == "n" else name


@given(st.lists(EXPRESSIONS, max_size=3), st.integers(0, 3))
@settings(deadline=None)
def test_blocks_cover_a_tensor_exactly(axes, split):
    if split < len(axes):  # the same axes, cut in two along one of them
        doubled = axis_size(axes[split], SIZES) * 2
        sizes = [doubled if k == split else axis_size(a, SIZES) for k, a in enumerate(axes)]
        placement = Placement(("t",), False, tuple(sizes), split, (tuple(axes),) * 2, None)
    else:
        sizes = [axis_size(axis, SIZES) for axis in axes]
        placement = Placement(("t",), False, tuple(sizes), None, (tuple(axes),), None)
    blocks = [piece.block for piece in cut_pieces(placement, SIZES, owner)]
    found = sorted(place for block in blocks for place in positions(block))
    assert found == list(range(int(np.prod(sizes))))


def test_the_cover_law_can_fail():
    spec = bound(['a: ["x + y", x]', "b: [y, y]"], {"a": (5, 2), "b": (3, 3)})
    (tensor,) = [t for t in spec.tensors if t.members == ("a",)]
    assert covers_exactly(tensor)
    assert not covers_exactly(type(tensor)(("a",), False, (5, 2), tensor.blocks[:1], True))


def test_ones_scattered_through_all_views_cover_a_stack():
    lines = ['e.[e].w: [e, "x * (2 + x)", x]', "r: [e, x]"]
    spec = bound(lines, {f"e.{k}.w": (15, 3) for k in range(4)} | {"r": (4, 3)})
    tensor = spec.tensors[0]
    values = torch.zeros(tensor.shape)
    for block in tensor.blocks:
        block.view(values).add_(1)
    assert torch.equal(values, torch.ones(4, 15, 3))


# Permuting through blocks against an index computed by hand. P: name -> numpy permutation,
# (parent, n) for groups with a parent: unit (h, i) of the result is unit (P[h], p[h, i]).


def head_major(P):
    heads, inner = P["h"], P["d"]
    return np.concatenate([heads[k] * 3 + inner[k] for k in range(len(heads))])


def fused(P):
    """The rows of kv * (q * qk + qk + vo) with kv 2, q 2, qk 3, vo 2: 11 rows for each kv."""
    rows = []
    for k in range(2):
        base = P["kv"][k] * 11
        rows += [base + P["q"][k][a] * 3 + i for a in range(2) for i in P["qk"][k]]
        rows += [base + 6 + i for i in P["qk"][k]]
        rows += [base + 9 + i for i in P["vo"][k]]
    return np.array(rows)


def shuffled(P):
    """The rows of ((a | b) | c), of which a has 3, b 2 and c 4."""
    inner = [None] * 5
    inner[0::2], inner[1::2] = list(P["a"] * 2), list(P["b"] * 2 + 1)
    rows = np.empty(9, dtype=np.int64)
    rows[0::2], rows[1::2] = 2 * np.array(inner), 2 * P["c"] + 1
    return rows


CASES = {
    "shuffle": (
        ['t: ["(a | b) | c", x]', 'w: [x, "a + b + c"]'],
        "groups: {a: {size: 3}, b: {size: 2}}\n",
        {"t": (9, 2), "w": (2, 9)},
        shuffled,
    ),
    "flattened shuffle": (
        ['t: ["(a | b) * 2", x]', 'w: [x, "a + b"]'],
        "groups: {a: {size: 3}}\n",
        {"t": (12, 2), "w": (2, 6)},
        lambda P: (np.stack([P["a"] * 4, P["b"] * 4 + 2], 1)[:, :, None] + [0, 1]).flatten(),
    ),
    "flatten": (
        ['t: ["c * 3", x]', "c: [x, c]", "u: [c, ~]"],
        "",
        {"t": (12, 2), "c": (2, 4), "u": (4, 1)},
        lambda P: np.concatenate([c * 3 + np.arange(3) for c in P["c"]]),
    ),
    "fixed outside": (
        ['t: ["3 * c", x]', "c: [x, c]", "u: [c, ~]"],
        "",
        {"t": (12, 2), "c": (2, 4), "u": (4, 1)},
        lambda P: np.concatenate([k * 4 + P["c"] for k in range(3)]),
    ),
    "sum": (
        ['t: ["a + 2 + b", x]', "c: [a, b]", "u: [b, a]", "w: [x, ~]"],
        "",
        {"t": (9, 2), "c": (3, 4), "u": (4, 3), "w": (2, 1)},
        lambda P: np.concatenate([P["a"], [3, 4], 5 + P["b"]]),
    ),
    "the same group twice": (
        ['t: ["a * a", x]', "c: [a, a]", "w: [x, x]"],
        "groups: {a: {size: 3}}\n",
        {"t": (9, 2), "c": (3, 3), "w": (2, 2)},
        lambda P: np.concatenate([k * 3 + P["a"] for k in P["a"]]),
    ),
    "per": (
        ['t: ["h * d", x]', 'o: [x, "h * d"]'],
        "groups: {h: {size: 2}, d: {per: h}}\n",
        {"t": (6, 4), "o": (4, 6)},
        head_major,
    ),
    "interleaved": (
        ['t: ["kv * (q * qk + qk + vo)", x]', 'o: [x, "kv * q * vo"]'],
        "groups: {kv: {size: 2}, q: {per: kv, size: 2}, qk: {per: kv, size: 3}, vo: {per: kv}}\n",
        {"t": (22, 4), "o": (4, 8)},
        fused,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("seed", range(3))
def test_permuting_through_blocks_equals_an_index_made_by_hand(case, seed):
    lines, head, shapes, rows = case
    spec = bind(parse(spec_text(lines, head)), infos(shapes))
    generator = torch.Generator().manual_seed(seed)
    permutations = {
        g.name: random_permutation(g.shape, g.parents, generator) for g in spec.groups.values()
    }
    by_hand = {name: p.index.numpy() for name, p in permutations.items()}
    tensor = spec.tensors[0]
    values = torch.arange(float(np.prod(tensor.shape))).reshape(tensor.shape)
    expected = values.numpy()[rows(by_hand)][:, by_hand["x"]]
    assert np.array_equal(take(values, tensor, permutations).numpy(), expected)
    assert sorted(rows(by_hand)) == list(range(tensor.shape[0]))
