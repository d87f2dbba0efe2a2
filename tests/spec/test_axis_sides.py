"""Which axes of a bound tensor write the units of their groups, and which read them."""

import pytest
import torch

from rebasin_cli.spec.binding.axis_sides import MAY_READ, MAY_WRITE, READ, WRITE, axis_sides
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import TensorInfo

BOTH = (WRITE, READ)


def sides(axes, shape, *, names=("w",), pattern="w", transposed="[]"):
    """Return the sides of a tensor's axes, groups being called a to d."""
    groups = ", ".join(f"{name}: {{one-sided: true}}" for name in "abcd" if name in axes)
    head = f"rebasin: 1\ntransposed: {transposed}\ngroups: {{{groups}}}\n"
    infos = {name: TensorInfo(name, shape, torch.float32) for name in names}
    bound = bind(parse(f"{head}tensors:\n  {pattern}: {axes}\n"), infos)
    return axis_sides(bound.tensors[0], bound.transposed)


@pytest.mark.parametrize(
    ("axes", "shape", "found"),
    [
        ("[a, b]", (4, 3), [(WRITE,), (READ,)]),
        ("[a, b, ~, ~]", (4, 3, 5, 5), [(WRITE,), (READ,), (), ()]),
        ("[a, b, c]", (2, 4, 3), [BOTH, (WRITE,), (READ,)]),
        ("[a, b, c, d]", (2, 2, 4, 3), [BOTH, BOTH, (WRITE,), (READ,)]),
        ("[a, ~, ~, ~]", (4, 1, 3, 3), [(MAY_WRITE,), (READ,), (), ()]),
        ("[a, ~, ~, ~]", (4, 2, 3, 3), [(WRITE,), (READ,), (), ()]),
        ("[a]", (4,), [()]),
    ],
)
def test_sides_follow_from_the_place_of_an_axis(axes, shape, found):
    assert sides(axes, shape) == found


@pytest.mark.parametrize(
    ("axes", "shape", "found"),
    [
        ("[a, b]", (4, 3), [(READ,), (WRITE,)]),
        ("[a, b, c]", (2, 4, 3), [BOTH, (READ,), (WRITE,)]),
        ("[a, ~, ~, ~]", (4, 1, 3, 3), [(MAY_READ,), (WRITE,), (), ()]),
    ],
)
def test_of_transposed_tensors_they_are_the_other_way_round(axes, shape, found):
    assert sides(axes, shape, transposed="[w]") == found
    assert sides(axes, shape, transposed='["*"]') == found


def test_an_axis_of_names_counts_matrices():
    found = sides("[a, b, c]", (4, 3), names=("x.0.w", "x.1.w"), pattern="x.[a].w")
    assert found == [BOTH, (WRITE,), (READ,)]
