"""The weights of models, also for some tensors alone, and which model is the reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from math import isfinite, prod
from pathlib import Path

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.wording import plural

FARTHEST = 1e6  # beyond it nothing of the models is left in float32
RANGE = re.compile(r"\{([0-9]{1,6})\.\.([0-9]{1,6})\}")
GLOBS = 1000  # that one with ranges may stand for; the deepest networks have fewer layers


@dataclass(frozen=True)
class TensorWeights:
    """The weights of models, and other ones for the tensors that a glob names.

    by_glob: of several globs that name a tensor the last one counts; see `expand_ranges`.
    """

    models: tuple[float, ...]
    by_glob: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def of(self, name: str) -> tuple[float, ...]:
        """Return the weights of the models for a tensor."""
        for glob, weights in reversed(self._plain):
            if fnmatchcase(name, glob):
                return weights
        return self.models

    @property
    def distinct(self) -> list[tuple[float, ...]]:
        """The different weights that there are, those of no glob first."""
        return list(dict.fromkeys([self.models, *(weights for _, weights in self.by_glob)]))

    @cached_property
    def _plain(self) -> list[tuple[str, tuple[float, ...]]]:
        return [(one, own) for glob, own in self.by_glob for one in expand_ranges(glob)]


def expand_ranges(glob: str) -> list[str]:
    """Return the globs that one with number ranges such as `{0..9}` stands for.

    >>> expand_ranges("layers.{8..10}.*")
    ['layers.8.*', 'layers.9.*', 'layers.10.*']
    """
    first, *rest = re.split(RANGE.pattern, glob)
    steps = list(zip(rest[::3], rest[1::3], rest[2::3], strict=True))
    numbers = [range(int(low), int(high) + 1) for low, high, _ in steps]
    if prod(map(len, numbers)) > GLOBS:
        raise UsageError(f"the ranges of {glob!r} stand for more than {GLOBS} globs")
    tails = [tail for _, _, tail in steps]
    return [
        first + "".join(f"{number}{tail}" for number, tail in zip(each, tails, strict=True))
        for each in product(*numbers)
    ]


def check_weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """Return one weight a model, all 1 if none is given. Raises UsageError if they cannot be.

    As `check_factors`, and their sum, which the result is divided by, must not be zero.
    """
    found = check_factors(weights, count)
    if abs(sum(found)) < 1e-12 * sum(map(abs, found)) or not any(found):
        raise UsageError(
            "the weights add up to zero", hint="the result is divided by their sum: change one"
        )
    return found


def check_factors(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """Return one weight a model, all 1 if none is given. Raises UsageError if they cannot be."""
    if not weights:
        return (1.0,) * count
    if len(weights) != count:
        raise UsageError(
            f"{len(weights)} {plural(len(weights), 'weight')} for {count} models",
            hint="--weights 0.5,0.3,0.2: one for each model",
        )
    if not all(map(isfinite, weights)):
        raise UsageError("a weight is not a finite number")
    if not isfinite(sum(map(abs, weights))):
        raise UsageError("the sum of the weights is beyond the largest number")
    return tuple(weights)


def check_alphas(alphas: Sequence[float], *, named: str = "--at") -> None:
    """Raise UsageError for a place between models, or beyond them, that none can be at."""
    for alpha in alphas:
        if not (isfinite(alpha) and abs(alpha) <= FARTHEST):
            raise UsageError(f"{named} {alpha}: a place is a finite number up to {FARTHEST:g}")


def reference_position(reference: Path | None, paths: Sequence[Path]) -> int:
    """Return which of the paths is the reference."""
    if reference is None:
        return 0
    same = [k for k, path in enumerate(paths) if path == reference or _one_file(path, reference)]
    if not same:
        hint = suggest(str(reference), map(str, paths)) or "give one of the MODEL arguments"
        raise UsageError(f"the reference {reference} is not among the models", hint=hint)
    return same[0]


def _one_file(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)
