"""Cases of views that let the units of several pieces alternate, and of what is done to them."""

from __future__ import annotations

from typing import Any

import torch

from tests.tracer.operators.probe import Case, Run, Sizes

aten = torch.ops.aten


def _joined_and_shuffled(run: Run, *halves: torch.Tensor) -> Any:
    """Concatenate along axis 0, and let the units of the pieces alternate."""
    size = halves[0].shape[0]
    apart = run(aten.view.default, run(aten.cat.default, list(halves)), [len(halves), size, -1])
    turned = run(aten.transpose.int, apart, 0, 1)
    return run(aten.reshape.default, turned, [len(halves) * size, -1])


def _shuffled(s: Sizes) -> Case:
    return Case((s("a c"), s("a c")), _joined_and_shuffled)


def _shuffled_and_cut(s: Sizes) -> Case:
    """Shuffled, and cut where neither half of the units ends."""

    def body(run: Run, *halves: torch.Tensor) -> Any:
        return run(aten.split_with_sizes.default, _joined_and_shuffled(run, *halves), [3, 5])

    return Case((s("4 c"), s("4 c")), body)


def _shuffled_twice(s: Sizes) -> Case:
    """What was shuffled, cut and shuffled again with a third piece."""

    def body(run: Run, one_: torch.Tensor, two: torch.Tensor, three: torch.Tensor) -> Any:
        both = _joined_and_shuffled(run, one_, two)
        first, second = run(aten.split.Tensor, both, 3)
        return run(aten.softmax.int, second, 0), _joined_and_shuffled(run, first, three)

    return Case((s("3 c"), s("3 c"), s("3 c")), body)


def _unshuffled(s: Sizes) -> Case:
    """Shuffled, and back: each piece behind the other again."""

    def body(run: Run, *halves: torch.Tensor) -> Any:
        both = _joined_and_shuffled(run, *halves)
        apart = run(aten.view.default, both, [s["a"], 2, -1])
        return run(aten.unbind.int, apart, 1)

    return Case((s("a c"), s("a c")), body)


def _shuffled_and_added(s: Sizes) -> Case:
    """Added to what was shuffled: a concatenation, rows of pairs, and two halves of the same."""

    def body(run: Run, *given: torch.Tensor) -> Any:
        one_, two, three, pairs = given
        both = _joined_and_shuffled(run, one_, two)
        more = run(aten.add.Tensor, both, run(aten.cat.default, [three, three]))
        rows = run(aten.view.default, pairs, [4, 2, -1])
        return more, run(aten.add.Tensor, run(aten.view.default, both, [4, 2, -1]), rows)

    return Case((s("4 c"), s("4 c"), s("4 c"), s("8 c")), body)


def _added_to_itself_shuffled(s: Sizes) -> Case:
    def body(run: Run, *halves: torch.Tensor) -> Any:
        both = run(aten.cat.default, list(halves))
        return run(aten.add.Tensor, both, _joined_and_shuffled(run, *halves))

    return Case((s("4 c"), s("4 c")), body)


def _shuffled_of_three_and_two(s: Sizes) -> Case:
    """One sum of what two and what three pieces were shuffled to."""

    def body(run: Run, *given: torch.Tensor) -> Any:
        two, three = _joined_and_shuffled(run, *given[:2]), _joined_and_shuffled(run, *given[2:])
        return run(aten.add.Tensor, two, three)

    return Case((s("6 c"), s("6 c"), s("4 c"), s("4 c"), s("4 c")), body)


def _shuffled_of_four_and_two(s: Sizes) -> Case:
    def body(run: Run, *given: torch.Tensor) -> Any:
        two, four = _joined_and_shuffled(run, *given[:2]), _joined_and_shuffled(run, *given[2:])
        return run(aten.add.Tensor, two, four)

    return Case((s("4 c"), s("4 c"), *(s("2 c") for _ in range(4))), body)


def _shuffled_of_four_and_of_parts(s: Sizes) -> Case:
    """As before, where one of the two pieces was cut behind its first unit."""

    def body(run: Run, *given: torch.Tensor) -> Any:
        alone, rest = run(aten.split_with_sizes.default, given[0], [1, 3])
        two, four = _joined_and_shuffled(run, *given[:2]), _joined_and_shuffled(run, *given[2:])
        return run(aten.add.Tensor, two, four), run(aten.softmax.int, rest, 0), alone

    return Case((s("4 c"), s("4 c"), *(s("2 c") for _ in range(4))), body)


SHUFFLES = [
    *(_shuffled, _shuffled_and_cut, _shuffled_twice, _unshuffled, _shuffled_and_added),
    *(_added_to_itself_shuffled, _shuffled_of_three_and_two, _shuffled_of_four_and_two),
    _shuffled_of_four_and_of_parts,
]
