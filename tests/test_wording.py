"""Lists that are cut say how many are left, and numbers carry their noun."""

import pytest

from rebasin_cli.wording import (
    AND_SO_ON,
    MORE_IN_GROUPS,
    and_more,
    count,
    list_names,
    listing,
    plural,
    shorten,
)

NAMES = ["a", "b", "c"]


@pytest.mark.parametrize("names", [[], NAMES[:2], NAMES])
def test_what_is_short_enough_is_shown_whole(names):
    assert shorten(names, 3, and_more) == names
    assert (
        list_names(names, 3)
        == list_names(names, 3, rest=AND_SO_ON)
        == listing(names)
        == ", ".join(names)
    )


def test_what_is_left_is_told():
    assert shorten(NAMES, 1, and_more) == ["a", "and 2 more"]
    assert list_names(NAMES, 2) == "a, b and 1 more"
    assert list_names(NAMES, 2, rest=AND_SO_ON) == "a, b, ..."
    assert listing(NAMES, most=1) == "a, and 2 more"
    assert list_names(NAMES * 400, 1, rest=MORE_IN_GROUPS) == "a and 1,199 more"


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "unit", "0 units"),
        (1, "bias", "1 bias"),
        (2, "bias", "2 biases"),
        (1024, "x", "1,024 xs"),
    ],
)
def test_a_number_carries_its_noun(number, noun, said):
    assert count(number, noun) == said
    assert said.endswith(plural(number, noun))
