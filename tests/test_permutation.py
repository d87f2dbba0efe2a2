"""Laws of permutations: what they refuse, how they compose, and that taking only moves bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.errors import PermutationError
from rebasin_cli.permutation import (
    Permutation,
    compose,
    gather,
    identity,
    inverse,
    random_permutation,
)
from rebasin_cli.permuted import Permuted, take, take_member
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Block, BoundTensor, Dim
from tests.proof import draw
from tests.spec.shapes import bound

# Groups two levels deep: `c` in `b` in `a`, a sibling `d` of `b`, and `e` on its own.
NESTED = {"a": 3, "b": 2, "c": 4, "d": 3, "e": 5}
PARENTS = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("a",), "e": ()}
AXES = ("e", "a", "b", "c", "d", None)
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FLOATS += [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
SEEDS = st.integers(0, 10**6)


def nested(seed):
    generator = torch.Generator().manual_seed(seed)
    shape = {g: [NESTED[p] for p in (*PARENTS[g], g)] for g in NESTED}
    return {g: random_permutation(shape[g], PARENTS[g], generator) for g in NESTED}


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def values_of(groups):
    return numbered(*(NESTED.get(g, 2) for g in groups))


def same(left, right):
    return list(left) == list(right) and all(left[name] == right[name] for name in left)


def tensor_of(*dims, stacked=False, members=("t",)):
    """Return a bound tensor of one block; dims: (size, group or None)."""
    strides = [torch.Size([size for size, _ in dims[k + 1 :]]).numel() for k in range(len(dims))]
    block = Block(0, tuple(Dim(*dim) for dim in with_strides(dims, strides)))
    return BoundTensor(members, stacked, tuple(size for size, _ in dims), (block,), True)


def with_strides(dims, strides):
    return [(size, step, group) for (size, group), step in zip(dims, strides, strict=True)]


# refusals


@pytest.mark.parametrize(
    "index",
    [[0, 0], [1, 2], [-1, 0], [[0, 1], [1, 1]]],
    ids=["twice", "outside", "negative", "one row of two"],
)
def test_an_index_that_is_not_a_bijection_is_refused(index):
    rows = torch.tensor(index)
    with pytest.raises(
        PermutationError, match=r"^an index occurs twice or lies outside the group$"
    ):
        Permutation(rows, ("p",) * (rows.dim() - 1))


@pytest.mark.parametrize(
    ("index", "parents", "shape"),
    [([0, 1], ("p",), "(2,)"), ([[0, 1]], (), "(1, 2)"), (0, (), "()")],
    ids=["a dimension short", "a dimension over", "a scalar"],
)
def test_an_index_has_a_dimension_for_each_parent_and_one_more(index, parents, shape):
    with pytest.raises(PermutationError) as caught:
        Permutation(torch.tensor(index), parents)
    assert str(caught.value) == (
        f"a permutation of {len(parents)} parents is not an torch.int64 array of shape {shape}"
    )


def test_an_index_of_another_dtype_is_refused():
    with pytest.raises(PermutationError, match=r"is not an torch\.int32 array of shape"):
        Permutation(torch.arange(3, dtype=torch.int32))


# conventions, by hand


def test_unit_i_of_the_result_is_unit_perm_i_of_the_original():
    cycle = Permutation(torch.tensor([1, 2, 0]))
    found = gather(torch.tensor([10, 20, 30]), ("g",), {"g": cycle})
    assert found.tolist() == [20, 30, 10]


def test_unit_h_i_of_the_result_is_unit_P_h_p_h_i_of_the_original():
    heads = Permutation(torch.tensor([1, 2, 0]))
    inner = Permutation(torch.tensor([[1, 2, 0], [0, 1, 2], [2, 1, 0]]), ("head",))
    values = torch.tensor([[0, 1, 2], [10, 11, 12], [20, 21, 22]])
    found = gather(values, ("head", "dim"), {"head": heads, "dim": inner})
    assert found.tolist() == [[11, 12, 10], [20, 21, 22], [2, 1, 0]]


def test_two_levels_of_parents_by_hand():
    permutations = {
        "a": Permutation(torch.tensor([1, 0])),
        "b": Permutation(torch.tensor([[0, 1], [1, 0]]), ("a",)),
        "c": Permutation(torch.tensor([[[0, 1], [1, 0]], [[0, 1], [1, 0]]]), ("a", "b")),
    }
    values = torch.tensor([[[0, 1], [10, 11]], [[100, 101], [110, 111]]])
    found = gather(values, ("a", "b", "c"), permutations)
    assert found.tolist() == [[[100, 101], [111, 110]], [[10, 11], [1, 0]]]


def test_the_inverse_of_a_cycle_goes_the_other_way():
    back = inverse({"g": Permutation(torch.tensor([1, 2, 3, 0]))})
    assert back["g"].index.tolist() == [3, 0, 1, 2]


def test_composing_two_permutations_by_hand():
    first, second = Permutation(torch.tensor([1, 2, 0])), Permutation(torch.tensor([1, 0, 2]))
    assert compose({"g": first}, {"g": second})["g"].index.tolist() == [2, 1, 0]


def test_units_that_change_place_are_counted_over_all_parents():
    index = torch.tensor([[0, 1, 2], [0, 2, 1]])
    assert Permutation(index, ("p",)).moved == 2


def test_permutations_of_other_parents_are_not_equal():
    index = torch.tensor([[0, 1]])
    assert Permutation(index, ("p",)) != Permutation(index, ("q",))


# the algebra


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_composing_with_the_inverse_gives_the_identity_on_both_sides(seed):
    some = nested(seed)
    still = {g: identity(p.index.shape, p.parents) for g, p in some.items()}
    assert same(compose(some, inverse(some)), still)
    assert same(compose(inverse(some), some), still)


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_composing_is_associative(seed):
    a, b, c = (nested(seed + k) for k in range(3))
    assert same(compose(compose(a, b), c), compose(a, compose(b, c)))


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_a_composition_acts_like_the_first_and_then_the_second(seed):
    first, second, values = nested(seed), nested(seed + 1), values_of(AXES)
    in_turn = gather(gather(values, AXES, first), AXES, second)
    assert torch.equal(gather(values, AXES, compose(first, second)), in_turn)


@given(SEEDS, st.permutations(AXES))
@settings(deadline=None, max_examples=50)
def test_gathering_does_not_depend_on_the_order_of_dimensions(seed, axes):
    permutations, values = nested(seed), values_of(AXES)
    order = [AXES.index(name) for name in axes]
    found = gather(values.permute(order), axes, permutations)
    assert torch.equal(found, gather(values, AXES, permutations).permute(order))


@given(SEEDS)
@settings(deadline=None, max_examples=30)
def test_gathering_follows_the_definition_unit_by_unit(seed):
    p, values = nested(seed), values_of(("a", "b", "c"))
    found = gather(values, ("a", "b", "c"), p)
    for h, i, k in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(4)):
        origin = p["a"].index[h], p["b"].index[h, i], p["c"].index[h, i, k]
        assert found[h, i, k] == values[origin]


def test_the_inverse_of_a_child_alone_takes_its_parent_to_stay():
    child = nested(3)["b"]
    found = compose({"b": child}, inverse({"b": child}))
    assert found["b"] == identity((3, 2), ("a",))


# gathering where a group or its parent has several dimensions, or none


def test_a_group_on_two_dimensions_permutes_both():
    cycle = Permutation(torch.tensor([1, 2, 0]))
    found = gather(numbered(3, 3), ("g", "g"), {"g": cycle})
    assert found.tolist() == [[4, 5, 3], [7, 8, 6], [1, 2, 0]]


def test_a_child_belongs_to_the_last_parent_before_it():
    p, axes = nested(5), ("a", "d", "a", "d")
    values = numbered(3, 3, 3, 3)
    found = gather(values, axes, p)
    for h, i, k, j in torch.cartesian_prod(*[torch.arange(3)] * 4):
        origin = p["a"].index[h], p["d"].index[h, i], p["a"].index[k], p["d"].index[k, j]
        assert found[h, i, k, j] == values[origin]


def test_a_pinned_parent_selects_the_row_of_its_position():
    p, values = nested(7), numbered(2, 4)
    found = gather(values, ("b", "c"), {"b": p["b"], "c": p["c"]}, pinned={"a": 2})
    whole = gather(values.expand(3, 2, 4), ("a", "b", "c"), {"b": p["b"], "c": p["c"]})
    assert torch.equal(found, whole[2])


def test_both_parents_may_be_pinned():
    c = nested(8)["c"]
    found = gather(numbered(4), ("c",), {"c": c}, pinned={"a": 1, "b": 0})
    assert torch.equal(found, c.index[1, 0])


def test_a_group_without_a_permutation_stays():
    p, values = nested(9), numbered(3, 5)
    assert torch.equal(gather(values, ("a", "e"), {"e": p["e"]}), values[:, p["e"].index])


# taking


def bits(values):
    return values.contiguous().view(torch.uint8)


def random_bits(shape, dtype, seed=0):
    """Return a tensor of a dtype whose every bit is random (for bool: every value)."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    raw = (*shape[:-1], shape[-1] * dtype.itemsize)
    return torch.randint(256, raw, generator=generator, dtype=torch.uint8).view(dtype)


FUSED = ["w: ['a * b * c + a * d', e]", "r: [e, 'a * d']", "o: ['a * b * c', ~]"]
SHAPES = {"w": (3 * 2 * 4 + 3 * 3, 5), "r": (5, 9), "o": (24, 2)}
HEAD = "groups: {a: {size: 3}, b: {per: a, size: 2}, c: {per: b}, d: {per: a}}\n"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_taking_and_taking_the_inverse_restores_every_bit(dtype):
    spec = bound(FUSED, SHAPES, head=HEAD)
    permutations = draw(spec, seed=1)
    for tensor in spec.tensors:
        values = random_bits(tensor.shape, dtype)
        moved = take(values, tensor, permutations)
        back = take(moved, tensor, inverse(permutations))
        assert moved.dtype == back.dtype == dtype
        assert not torch.equal(bits(moved), bits(values))
        assert torch.equal(bits(back), bits(values))


def test_taking_leaves_its_argument_alone():
    tensor, values = tensor_of((5, "e"), (2, None)), numbered(5, 2)
    take(values, tensor, nested(1))
    assert torch.equal(values, numbered(5, 2))


def test_taking_a_view_that_is_not_contiguous_gives_the_same():
    tensor, p = tensor_of((5, "e"), (3, "a")), nested(2)
    strided = numbered(4, 5)[1:].T
    assert torch.equal(take(strided, tensor, p), take(strided.contiguous(), tensor, p))


def test_a_tensor_without_a_group_in_the_permutations_is_returned_itself():
    tensor, values = tensor_of((5, "e"), (2, None)), numbered(5, 2)
    assert take(values, tensor, {"a": identity((3,))}) is values


# members of a stack

EXPERTS = {f"x.{k}.{w}": (4, 3) if w == "up" else (3, 4) for k in range(3) for w in ("up", "down")}


def mixture():
    """Return a spec with experts under an axis of names, hidden units in each, and their order."""
    lines = ["x.[k].up: [expert, hidden, s]", "x.[k].down: [expert, s, hidden]"]
    lines += ["in: [s, ~]", "out: [~, s]", "router: [expert, s]"]
    shapes = {**EXPERTS, "in": (3, 2), "out": (2, 3), "router": (3, 3)}
    return bound(lines, shapes, head="groups: {hidden: {per: expert}}\n"), shapes


def state_of(shapes):
    return {n: numbered(*s) + 1000 * k for k, (n, s) in enumerate(shapes.items())}


@pytest.mark.parametrize("left_out", [(), ("expert",), ("hidden",), ("s", "hidden")], ids="-".join)
def test_each_member_is_a_slice_of_the_stack_that_was_taken(left_out):
    spec, shapes = mixture()
    source = InMemory(state_of(shapes))
    permutations = {g: p for g, p in draw(spec, seed=4).items() if g not in left_out}
    for tensor in spec.tensors:
        whole = take(tensor.load(source), tensor, permutations)
        for position in range(len(tensor.members)):
            member = take_member(source, tensor, position, permutations)
            assert torch.equal(member, whole[position] if tensor.stacked else whole)


def test_a_member_that_moves_brings_the_tensor_of_its_origin():
    spec, shapes = mixture()
    state = state_of(shapes)
    (up,) = [t for t in spec.tensors if t.members[0].endswith("up")]
    found = take_member(InMemory(state), up, 0, {"expert": Permutation(torch.tensor([2, 0, 1]))})
    assert torch.equal(found, state["x.2.up"])


class Counted(InMemory):
    loads = 0

    def load(self, name):
        self.loads += 1
        return super().load(name)


def test_permuting_as_it_is_loaded_reads_one_member_at_a_time():
    spec, shapes = mixture()
    source = Counted(state_of(shapes))
    Permuted(source, spec.tensors, draw(spec, seed=1)).load("x.1.up")
    assert source.loads == 1


def test_permuting_as_it_is_loaded_passes_the_rest_through():
    tensor, p = tensor_of((5, "e"), (2, None)), nested(3)
    state = {"t": numbered(5, 2), "step": torch.tensor(7), "z": torch.ones(2)}
    model = Permuted(InMemory(state), [tensor], p)
    assert model.names() == ("t", "step", "z")
    assert model.info("t") == InMemory(state).info("t")
    assert torch.equal(model.load("t"), state["t"][p["e"].index])
    assert model.load("step") is state["step"] and model.load("z") is state["z"]
