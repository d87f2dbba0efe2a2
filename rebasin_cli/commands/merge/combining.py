"""How models are combined: the options, and what contradicts what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from rebasin_cli.errors import Problem, UsageError, suggest
from rebasin_cli.merging.combination import (
    COMBINATIONS,
    DENSITIES,
    FROM_BASE,
    MEAN,
    STOCK,
    Combination,
)
from rebasin_cli.merging.weights import FARTHEST
from rebasin_cli.options.parameters import flags_in
from rebasin_cli.options.values import optional_path, parse_numbers

_option = flags_in("Combine")

GlobWeights = tuple[str, Sequence[float]]


@dataclass(frozen=True)
class Combining:
    """How models are combined, as it was asked for.

    base: what they all come from. density, scale: None: the default of the method.
    """

    combine: str = _option(
        "--combine",
        default=MEAN,
        metavar="|".join(COMBINATIONS),
        help="How tensors are put together; all but mean and slerp-n add what the models have "
        "learnt to --base.",
    )
    base: Path | None = _option(
        "--base",
        parse=optional_path,
        metavar="MODEL",
        help="What the MODELs were fine-tuned from; they are aligned to it.",
    )
    density: float | None = _option(
        "--density",
        metavar="SHARE",
        help="What is kept of each difference, in (0, 1]; default: 0.2 for ties, 0.5 with dare.",
    )
    scale: float | None = _option(
        "--scale", metavar="F", help="Multiply what is added to the base; default: 1."
    )


def parse_weights(texts: Sequence[str] | None) -> tuple[list[float], list[GlobWeights]]:
    """Return the weights of models, and those for globs of tensors, from `GLOB=0.7,0.3`."""
    plain = [text for text in texts or () if "=" not in text]
    named = [text.rpartition("=") for text in texts or () if "=" in text]
    return parse_numbers(plain), [(glob, parse_numbers([list])) for glob, _, list in named]


def plan_combination(
    combining: Combining, *, models: int, weights: Sequence[float], seed: int
) -> Combination:
    """Return how models are combined. Raises UsageError, all contradictions together."""
    combine = combining.combine
    if combine not in COMBINATIONS:
        hint = suggest(combine, COMBINATIONS) or ", ".join(COMBINATIONS)
        raise UsageError(f"there is no --combine {combine!r}", hint=hint)
    scale = 1.0 if combining.scale is None else combining.scale
    density = combining.density or DENSITIES.get(combine, 1.0)
    found = Combination(combine, density, scale, seed)
    problems = list(_problems(combining, found, models, weights))
    if problems:
        raise UsageError(*problems)
    return found


def _problems(
    asked: Combining, found: Combination, models: int, weights: Sequence[float]
) -> Iterator[Problem]:
    if found.from_base and asked.base is None:
        yield Problem(f"--combine {found.combine} needs --base", hint="--base MODEL")
    if asked.base is not None and not found.from_base:
        hint = f"--combine {'|'.join(FROM_BASE)}; or --ref says whose order of units to keep"
        yield Problem(f"--combine {found.combine} uses no --base", hint=hint)
    if asked.density is not None and not found.sparse:
        which = ", ".join(DENSITIES)
        yield Problem(f"--combine {found.combine} uses no --density", hint=f"it is for {which}")
    if asked.density is not None and not 0 < asked.density <= 1:
        yield Problem(f"--density {asked.density:g}: expected a share above 0 and up to 1")
    if asked.scale is not None and not found.scaled:
        yield Problem(f"--combine {found.combine} uses no --scale", hint="leave it out")
    if not (isfinite(found.scale) and abs(found.scale) <= FARTHEST):
        yield Problem(f"--scale {found.scale:g}: expected a number up to {FARTHEST:g}")
    if found.combine == STOCK and weights:
        yield Problem("model-stock takes no weights: angles decide", hint="leave out --weights")
    if found.combine == STOCK and models == 1:
        yield Problem("model-stock compares models: it takes at least two")
