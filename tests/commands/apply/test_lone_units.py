"""Factors follow weights in which a group has a single unit, whose stride tells no axis."""

import pytest
import torch

from rebasin_cli.adapters.along_axes import along_axes
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.tensors import InMemory
from tests.spec.shapes import bound

RANK = 2
TENSORS = (
    'queries: ["kv * q", stream]',
    'values: ["kv * vo", stream]',
    'out: [stream, "kv * q * vo"]',
    'up: ["hidden * sign", stream]',
    'down: [stream, "hidden * sign"]',
)
GROUPS = """groups:
  kv: {size: 1}
  q: {size: %d, per: kv}
  vo: {per: kv}
  sign: {size: 1, per: hidden, maps: signed}
"""


@pytest.mark.parametrize("queries", [1, 3])
def test_a_factor_moves_along_the_axis_on_which_a_lone_unit_stands(queries):
    width = 5 * queries
    shapes = {"queries": (queries, 4), "values": (5, 4), "out": (4, width)}
    shapes |= {"up": (6, 4), "down": (4, 6)}
    spec = bound(TENSORS, shapes, head=GROUPS % queries)
    generator = torch.Generator().manual_seed(0)
    orders = draw_permutations(spec.groups.values(), generator)
    for weight in spec.tensors:
        (name,) = weight.members
        parts = {
            "b": torch.randn(weight.shape[0], RANK, generator=generator),
            "a": torch.randn(RANK, weight.shape[1], generator=generator),
        }
        axes = {"b": (0, None), "a": (None, 1)}
        tensors = [
            along_axes(weight, axes[n], t.shape, members=(n,), groups=spec.groups)
            for n, t in parts.items()
        ]
        moved = Permuted(InMemory(parts), tensors, orders)
        product = Permuted(InMemory({name: parts["b"] @ parts["a"]}), [weight], orders)
        assert torch.allclose(moved.load("b") @ moved.load("a"), product.load(name)), name
