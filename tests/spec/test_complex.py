"""Complex tensors: their blocks are those of the pairs of reals that they are made of."""

import pytest
import torch

from rebasin_cli.permuted import Permuted, take
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.numbers import in_reals

SPEC = """\
rebasin: 1
groups:
  head: {size: 3}
  dim: {per: head}
tensors:
  whole.weight: [a, b]
  heads.weight: ["head * dim", b]
  parts.weight: ["a + b", ~]
  out.weight: [~, a]
  back.weight: [b, "head * dim"]
  experts.[e].weight: [expert, a]
  router.weight: [expert, ~]
  bias: [a]
"""
SHAPES = {
    "whole.weight": (4, 5),
    "heads.weight": (6, 5),
    "parts.weight": (9, 2),
    "out.weight": (2, 4),
    "back.weight": (5, 6),
    "experts.0.weight": (4,),
    "experts.1.weight": (4,),
    "router.weight": (2, 3),
    "bias": (4,),
}


def model(dtype):
    generator = torch.Generator().manual_seed(0)
    numbers = (torch.randn(*s, generator=generator, dtype=dtype) for s in SHAPES.values())
    return InMemory(dict(zip(SHAPES, numbers, strict=True)))


def part(source, which):
    return InMemory({name: getattr(source.load(name), which).contiguous() for name in SHAPES})


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("seed", range(3))
def test_real_and_imaginary_parts_are_permuted_alike(dtype, seed):
    source = model(dtype)
    bound, plain = (
        bind(parse(SPEC), {name: s.info(name) for name in SHAPES})
        for s in (source, part(source, "real"))
    )
    permutations = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(seed))
    moved = Permuted(source, bound.tensors, permutations)
    for which in ("real", "imag"):
        expected = Permuted(part(source, which), plain.tensors, permutations)
        for name in SHAPES:
            assert torch.equal(getattr(moved.load(name), which), expected.load(name))


def test_blocks_cover_the_reals_exactly_once():
    source = model(torch.complex64)
    bound = bind(parse(SPEC), {name: source.info(name) for name in SHAPES})
    for tensor in bound.tensors:
        assert tensor.votes
        count = torch.zeros(tensor.shape, dtype=torch.int64)
        for block in tensor.blocks:
            block.view(count).add_(1)
        assert tensor.load(source).shape == tensor.shape
        assert bool((count == 1).all())


def test_what_nothing_moves_is_the_tensor_itself():
    source = model(torch.complex64)
    bound = bind(parse(SPEC), {name: source.info(name) for name in SHAPES})
    conjugated = source.load("whole.weight").conj()
    whole = next(t for t in bound.tensors if t.members == ("whole.weight",))
    assert take(conjugated, whole, {}) is conjugated
    assert torch.equal(in_reals(conjugated)[..., 1], conjugated.imag)
