"""Which models of a series are compared: pairs by numbers, by order, by folders, and refusals."""

from pathlib import Path

import pytest

from rebasin_cli.commands.barrier.series.numbered_pairs import pair_models
from rebasin_cli.errors import UsageError


def pairs(text, by=None):
    """Return how models were paired, and as text the pairs: a=b of number, word."""
    found = pair_models([Path(word) for word in text.split()], by)
    shown = [
        f"{a}={b} {'' if p.number is None else f'{p.number:g}'} {p.word}".strip()
        for p in found.pairs
        for a, b in [p.paths]
    ]
    return found.by, shown


@pytest.mark.parametrize(
    ("given", "by", "expected"),
    [
        # a shell sorts 10 before 2, and people write 02
        (
            "a/epoch-10.pt a/epoch-2.pt b/epoch-02.pt b/epoch-10.pt",
            "number",
            ["a/epoch-2.pt=b/epoch-02.pt 2 epoch", "a/epoch-10.pt=b/epoch-10.pt 10 epoch"],
        ),
        # one folder: halves; a number that all have in common is not the one that is meant
        (
            "s0-e1.pt s0-e2.pt s1-e2.pt s1-e1.pt",
            "number",
            ["s0-e1.pt=s1-e1.pt 1 e", "s0-e2.pt=s1-e2.pt 2 e"],
        ),
        # Lightning's names: the first number that differs
        (
            "a/epoch=0-step=10.ckpt a/epoch=1-step=20.ckpt b/epoch=0-step=9.ckpt "
            "b/epoch=1-step=18.ckpt",
            "number",
            [
                "a/epoch=0-step=10.ckpt=b/epoch=0-step=9.ckpt 0 epoch",
                "a/epoch=1-step=20.ckpt=b/epoch=1-step=18.ckpt 1 epoch",
            ],
        ),
        # the number may be the ending, or of the folders
        ("a/m.ckpt-5 a/m.ckpt-7 b/m.ckpt-5 b/m.ckpt-7", "number", None),
        (
            "a/1/m.pt a/2/m.pt b/1/m.pt b/2/m.pt",
            "number",
            ["a/1/m.pt=b/1/m.pt 1", "a/2/m.pt=b/2/m.pt 2"],
        ),
        ("a/0.5.pt b/0.50.pt", "number", ["a/0.5.pt=b/0.50.pt 0.5"]),
        # no numbers: as they come
        ("a/x.pt a/y.pt b/v.pt b/w.pt", "order", ["a/x.pt=b/v.pt", "a/y.pt=b/w.pt"]),
        # more than two folders of two: a pair each
        (
            "w8/a.pt w8/b.pt w64/a.pt w64/b.pt w16/a.pt w16/b.pt",
            "folder",
            ["w8/a.pt=w8/b.pt 8 w", "w16/a.pt=w16/b.pt 16 w", "w64/a.pt=w64/b.pt 64 w"],
        ),
        ("s/a.pt s/b.pt l/a.pt l/b.pt m/a.pt m/b.pt", "folder", None),
    ],
)
def test_what_fits_is_found_from_the_names(given, by, expected):
    found, shown = pairs(given)
    assert found == by
    if expected is not None:
        assert shown == expected
    assert len(shown) == len(given.split()) // 2


def test_the_way_can_be_named():
    two = "w8/0.pt w8/1.pt w64/0.pt w64/1.pt"
    assert pairs(two) == ("number", ["w8/0.pt=w64/0.pt 0", "w8/1.pt=w64/1.pt 1"])
    assert pairs(two, "folder")[1] == ["w8/0.pt=w8/1.pt 8 w", "w64/0.pt=w64/1.pt 64 w"]
    swapped = "a/2.pt a/1.pt b/1.pt b/2.pt"
    assert pairs(swapped, "order") == ("order", ["a/2.pt=b/1.pt", "a/1.pt=b/2.pt"])


@pytest.mark.parametrize(
    ("given", "by", "message"),
    [
        ("a1.pt a2.pt b1.pt", None, "--series takes pairs of models, not 3"),
        ("", None, "--series takes pairs of models, not 0"),
        (
            "a/1.pt a/2.pt a/3.pt b/1.pt b/4.pt",
            None,
            "no model of the other list has the number of a/2.pt, a/3.pt, b/4.pt",
        ),
        ("a/1.pt a/01.pt b/1.pt b/2.pt", "number", "no number tells a/1.pt, a/01.pt apart"),
        (
            "a/1-x2.pt a/1-x3.pt a/2-x2.pt b/1.pt b/2.pt b/3.pt",
            None,
            "a/1-x2.pt, a/1-x3.pt have the number 1 in common",
        ),
        ("a/init.pt a/1.pt b/1.pt b/2.pt", None, "no number tells a/init.pt, a/1.pt apart"),
        ("a/1.pt a/2.pt b/1.pt", "order", "2 models in a and 1 in b do not make pairs"),
        ("a/1.pt b/1.pt b/2.pt", "folder", "takes two models of each folder: a has 1"),
        ("a/1.pt b/1.pt", "numbers", "--pair-by numbers: no such way to pair models"),
    ],
)
def test_what_makes_no_pairs_is_refused_by_name(given, by, message):
    with pytest.raises(UsageError) as caught:
        pairs(given, by)
    assert message in str(caught.value)
    assert caught.value.problems[0].hint
