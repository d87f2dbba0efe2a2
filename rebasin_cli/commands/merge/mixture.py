"""What is combined, and how: the models, their base, their weights tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.combining import GlobWeights
from rebasin_cli.errors import Problem, UsageError, suggest_tensor
from rebasin_cli.merging.combination import ARC, MEAN, STOCK, Combination
from rebasin_cli.merging.combined import combine_models
from rebasin_cli.merging.weights import (
    TensorWeights,
    check_factors,
    check_weights,
    expand_ranges,
)
from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True)
class MixedModels:
    """The models that are combined, and how. base: what differences are taken to, if any are."""

    merged: tuple[Checkpoint, ...]
    base: Checkpoint | None
    weights: TensorWeights
    combination: Combination

    @property
    def plain(self) -> bool:
        """Whether it is the mean of the models, with the same weights in all tensors."""
        return self.combination.combine == MEAN and not self.weights.by_glob

    @property
    def done(self) -> str:
        """What was done to the models, in one word."""
        return "averaged" if self.combination.combine == MEAN else "combined"

    def combined(
        self, sources: Sequence[TensorSource], reference: int, selects: Callable[[str], bool]
    ) -> TensorSource:
        """Return what the models come to. sources: they in one frame, the base behind them."""
        return combine_models(sources, reference, self.weights, self.combination, selects)

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values; null: the method has no such number."""
        how = self.combination
        return {
            "combine": how.combine,
            "base": str(self.base.path) if self.base else None,
            "density": how.density if how.sparse else None,
            "scale": how.scale if how.scaled else None,
            "tensor_weights": {glob: list(own) for glob, own in self.weights.by_glob},
        }

    def facts(self) -> dict[str, object]:
        """Return the facts for provenance besides the models; none for a plain mean."""
        told = {} if self.plain else self.describe()
        known = {name: value for name, value in told.items() if value not in (None, {})}
        if self.base is None:
            return known
        return {**known, "base": {"name": self.base.path.name, "sha256": self.base.sha256()}}


def check_model_weights(
    weights: Sequence[float], count: int, combination: Combination
) -> tuple[float, ...]:
    """Return one weight a model. Raises UsageError if a way to combine cannot have them."""
    check = check_factors if combination.from_base else check_weights
    found = check(weights, count)
    if combination.combine == ARC and min(found) < 0:
        raise UsageError("slerp-n takes no weight below zero", hint="--combine mean takes it")
    return found


def weigh_tensors(
    weights: tuple[float, ...],
    by_glob: Sequence[GlobWeights],
    combination: Combination,
    models: Sequence[Checkpoint],
) -> TensorWeights:
    """Return the weights of every tensor. Raises UsageError for a glob that names none."""
    if by_glob and combination.combine == STOCK:
        raise UsageError("model-stock takes no weights: angles decide", hint="leave out --weights")
    names = {name for model in models for name in model.names()}
    idle = [glob for glob, _ in by_glob if not _names_any(glob, names)]
    if idle:
        what = "--weights: no tensor is called"
        raise UsageError(*(Problem(f"{what} {g!r}", hint=suggest_tensor(g, names)) for g in idle))
    count = len(weights)
    each = [(glob, check_model_weights(own, count, combination)) for glob, own in by_glob]
    return TensorWeights(weights, tuple(each))


def _names_any(glob: str, names: set[str]) -> bool:
    return any(matching(names, one) for one in expand_ranges(glob))
