"""Claim: a narrow network can be averaged with a wide one once it is widened and aligned to it.

Perceptrons of three hidden layers, trained on 2,000 images of Fashion-MNIST and judged on 2,000
others: loss and accuracy of the midpoint, and the barrier over 11 points of the line, with the
units of the narrow one where they are (its first ones, the others zero) and with `align --widen`.
Pairs of one width stand beside them. Without arguments: 64 and 128 units; --full: 128 and 256.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

import rebasin_cli as rb
from tests.benchmarks.bed.judge import State
from tests.benchmarks.bed.networks import require
from tests.benchmarks.bed.tables import Row, number, table
from tests.benchmarks.bed.training import Recipe

HEADS = ("line", "loss: ends", "midpoint", "accuracy: ends", "midpoint", "barrier")
POINTS = [k / 10 for k in range(11)]


def recipe(width: int) -> Recipe:
    """Return how a perceptron of a width is trained."""
    return Recipe("mlp", lambda nets: nets.MLP((width,) * 3), "mlp", epochs=15, rate=1e-3)


def row(label: str, judge: Recipe, a: State, b: State) -> Row:
    found = [judge.judged(state) for state in rb.lerp(a, b, POINTS)]
    losses = [one.loss for one in found]
    rises = [y - (1 - x) * losses[0] - x * losses[-1] for x, y in zip(POINTS, losses, strict=True)]
    ends, middle = (found[0], found[-1]), found[len(found) // 2]
    return (
        label,
        " / ".join(number(end.loss) for end in ends),
        number(middle.loss),
        " / ".join(number(end.accuracy, 4) for end in ends),
        number(middle.accuracy, 4),
        number(max(rises)),
    )


def rows(narrow: int, wide: int) -> Iterator[Row]:
    small, large = recipe(narrow), recipe(wide)
    a, b = large.trained(0), small.trained(1)
    wider = rb.widen(b, a, spec="mlp")
    yield row(f"{wide} and {narrow}, zero units alone", large, a, wider)
    yield row(f"{wide} and {narrow}, align --widen", large, a, rb.align(a, wider, spec="mlp"))
    for width, how in ((wide, large), (narrow, small)):
        one, other = how.trained(0), how.trained(1)
        yield row(f"{width} twice, align", how, one, rb.align(one, other, spec="mlp"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="128 and 256 units")
    asked = parser.parse_args()
    require()
    torch.set_num_threads(1)
    print(table(HEADS, list(rows(*((128, 256) if asked.full else (64, 128))))))


if __name__ == "__main__":
    main()
