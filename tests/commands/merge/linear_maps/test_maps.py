"""Linear maps of tensors: sides, blocks, what passes through, and which groups may be mapped."""

import pytest
import torch

from rebasin_cli.commands.merge.linear_maps.axis_roles import SPREAD, mappable
from rebasin_cli.commands.merge.linear_maps.linear_map import LinearMap, Mapped, identity_map
from rebasin_cli.spec.binding.axis_sides import READ, WRITE
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, infos

SPEC = """
rebasin: 1
tensors:
  conv.weight: [c, ~]
  conv.bias: [c]
  norm.running_var: [c]
  fc.weight: [h, "c * 4"]
  fc.bias: [h]
  out.weight: [~, h]
  out.bias: [~]
buffers: [norm.running_var]
"""
SIDES = {
    "conv.weight": (WRITE, READ, None, None),
    "conv.bias": (WRITE,),
    "norm.running_var": (SPREAD,),
    "fc.weight": (WRITE, READ),
    "fc.bias": (WRITE,),
    "out.weight": (WRITE, READ),
    "out.bias": (WRITE,),
}
SHAPES = {
    "conv.weight": (3, 2, 3, 3),
    "conv.bias": (3,),
    "norm.running_var": (3,),
    "fc.weight": (5, 12),
    "fc.bias": (5,),
    "out.weight": (4, 5),
    "out.bias": (4,),
}


def model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    return InMemory({**made, "steps": torch.tensor(7)})


def linear(size, seed):
    generator = torch.Generator().manual_seed(seed)
    write = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return LinearMap(write, torch.linalg.inv(write))


SOURCE = model()
BOUND = bind(parse(SPEC), infos(SOURCE))
MAPS = {"c": linear(3, 1), "h": linear(5, 2)}


def mapped(maps=MAPS):
    return Mapped(SOURCE, BOUND.tensors, maps, SIDES)


def test_writers_are_mapped_from_the_left_and_readers_from_the_right():
    c, h = MAPS["c"], MAPS["h"]
    weight = SOURCE.load("conv.weight").double()
    expected = (c.write @ weight.reshape(3, -1)).reshape(weight.shape)
    assert torch.allclose(mapped().load("conv.weight").double(), expected, atol=1e-5)
    expected = c.write @ SOURCE.load("conv.bias").double()
    assert torch.allclose(mapped().load("conv.bias").double(), expected, atol=1e-5)
    expected = SOURCE.load("out.weight").double() @ h.read
    assert torch.allclose(mapped().load("out.weight").double(), expected, atol=1e-5)


def test_variances_take_the_squares_so_that_none_becomes_negative():
    variances = SOURCE.load("norm.running_var").double()
    expected = MAPS["c"].write.square() @ variances
    assert torch.allclose(mapped().load("norm.running_var").double(), expected, atol=1e-5)


def test_a_flattened_axis_is_mapped_channel_by_channel():
    weight = SOURCE.load("fc.weight").double().reshape(5, 3, 4)
    expected = torch.einsum("ho,oip,ij->hjp", MAPS["h"].write, weight, MAPS["c"].read)
    found = mapped().load("fc.weight").double().reshape(5, 3, 4)
    assert torch.allclose(found, expected, atol=1e-4)


def test_what_no_map_concerns_passes_through():
    assert mapped().load("out.bias") is SOURCE.load("out.bias")
    assert mapped().load("steps") is SOURCE.load("steps")
    assert mapped({"c": MAPS["c"]}).load("out.weight") is SOURCE.load("out.weight")


def test_the_map_that_changes_nothing_changes_nothing_and_the_source_is_not_written_to():
    before = {name: SOURCE.load(name).clone() for name in SOURCE.names()}
    same = mapped({"c": identity_map(3), "h": identity_map(5)})
    for name in SOURCE.names():
        assert torch.equal(same.load(name), before[name])
        mapped().load(name)
        assert torch.equal(SOURCE.load(name), before[name])


def test_dtypes_widen_to_float32_and_stay_float64():
    narrow = InMemory({n: SOURCE.load(n).half() for n in SHAPES})
    assert Mapped(narrow, BOUND.tensors, MAPS, SIDES).load("fc.bias").dtype == torch.float32
    wide = InMemory({n: SOURCE.load(n).double() for n in SHAPES})
    assert Mapped(wide, BOUND.tensors, MAPS, SIDES).load("fc.bias").dtype == torch.float64


def test_a_square_matrix_is_mapped_on_both_sides():
    source = InMemory({"u.weight": torch.randn(3, 2), "w.weight": torch.randn(3, 3)})
    bound = bind(parse("rebasin: 1\ntensors: {u.weight: [s], w.weight: [s, s]}"), infos(source))
    sides = {"u.weight": (WRITE, READ), "w.weight": (WRITE, READ)}
    found = Mapped(source, bound.tensors, {"s": MAPS["c"]}, sides).load("w.weight").double()
    expected = MAPS["c"].write @ source.load("w.weight").double() @ MAPS["c"].read
    assert torch.allclose(found, expected, atol=1e-5)


def test_groups_with_clear_sides_can_be_mapped():
    assert mappable(BOUND.groups.values(), BOUND.tensors, SIDES).groups == ("c", "h")


@pytest.mark.parametrize("sides", [{}, {**SIDES, "fc.weight": (WRITE, None)}])
def test_a_group_of_unclear_side_cannot(sides):
    found = mappable(BOUND.groups.values(), BOUND.tensors, sides)
    assert "c" not in found.groups
    assert "writes or reads its units is not clear" in found.others["c"]


def test_groups_with_an_order_inside_others_cannot():
    text = """
rebasin: 1
groups: {head: {size: 2}, inner: {per: head}}
tensors: {q.weight: ["head * inner"], o.weight: [~, "head * inner"]}
"""
    source = InMemory({"q.weight": torch.ones(6, 4), "o.weight": torch.ones(4, 6)})
    bound = bind(parse(text), infos(source))
    sides = {"q.weight": (WRITE, READ), "o.weight": (WRITE, READ)}
    found = mappable(bound.groups.values(), bound.tensors, sides)
    assert found.groups == ()
    assert found.others == {
        "head": "inner has an order of its own for each of its units",
        "inner": "it has an order of its own for each head",
    }
