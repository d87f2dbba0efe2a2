"""Two specs that allow the same permutations, whatever they call their groups."""

import pytest

from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from tests.spec.shapes import bound, head

SHAPES = {"in": (12, 5), "b": (12,), "out": (5, 12), "x": (5, 2), "n": (5,)}
LINES = ["in: ['h * d', x]", "b: ['h * d']", "out: [x, 'h * d']", "x: [x, ~]", "n: [x]"]
PER = head(groups="{h: {size: 4}, d: {per: h}}")


def case(old="", new="", **options):
    lines = [line.replace(old, new) for line in LINES] if old else LINES
    return bound(lines, SHAPES, **{**PER, **options})


def both_ways(one, other):
    found = same_symmetry(one, other)
    assert same_symmetry(other, one) == found
    return found


def test_a_spec_is_the_same_as_itself():
    assert both_ways(case(), case())


SAME = {
    "other names": case("h * d", "d * h", **head(groups="{d: {size: 4}, h: {per: d}}")),
    "other order of entries": bound(LINES[::-1], SHAPES, **PER),
    "one pattern for two tensors": bound(
        [*(line for line in LINES if line[0] not in "xn"), "{x,n}: [x]"], SHAPES, **PER
    ),
    "a named axis that is fixed": case(
        "x: [x, ~]",
        "x: [x, pixel]",
        **head(groups="{h: {size: 4}, d: {per: h}, pixel: {fixed: true}}"),
    ),
}
OTHER = {
    "sizes": case(**head(groups="{h: {size: 6}, d: {per: h}}")),
    "no parent": case(**head(groups="{h: {size: 4}}")),
    "heads that stay": case(**head(groups="{h: {size: 4, fixed: true}, d: {per: h}}")),
    "dims that stay": case("h * d", "h * 3", **head(groups="{h: {size: 4}}")),
    "heads of no kind": case("h * d", "4 * d", **{"head": ""}),
    "one group": case("h * d", "d", **{"head": ""}),
    "a tensor that stays": bound([line for line in LINES if line[0] != "n"], SHAPES, **PER),
    "a tensor that does not vote": case(**{"head": PER["head"] + "buffers: [n]\n"}),
}


@pytest.mark.parametrize("name", SAME)
def test_specs_that_say_the_same_are_recognised(name):
    assert both_ways(case(), SAME[name])


@pytest.mark.parametrize("name", OTHER)
def test_specs_that_say_something_else_are_told_apart(name):
    assert not both_ways(case(), OTHER[name])


def test_two_groups_are_not_one():
    shapes = {"a": (4, 3), "b": (2, 4), "c": (4, 3), "d": (2, 4)}
    apart = bound(["a: [x, ~]", "b: [~, x]", "c: [y, ~]", "d: [~, y]"], shapes)
    joined = bound(["{a,c}: [x, ~]", "{b,d}: [~, x]"], shapes)
    crossed = bound(["a: [x, ~]", "d: [~, x]", "c: [y, ~]", "b: [~, y]"], shapes)
    assert not both_ways(apart, joined)
    assert not both_ways(apart, crossed)
