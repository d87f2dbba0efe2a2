"""The ways to align that are tried, in the order of their use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rebasin_cli.folding.rotation_data import ACTIVATIONS
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.search import Search
from rebasin_cli.spec.language.model import PERMUTATION

DEFAULT = "default"


@dataclass(frozen=True)
class Candidate:
    """A way to align: by which class of maps, and how these are searched for."""

    name: str
    symmetry: str
    search: Search
    activations: Activations = Activations()

    @property
    def runs(self) -> bool:
        """Whether the models are run for it."""
        return self.search.method == ACTIVATIONS


@dataclass(frozen=True)
class _Variation:
    """What a candidate has otherwise than is usual: options of the search and of activations."""

    name: str
    search: Mapping[str, Any]
    activations: Mapping[str, Any] | None = None


def _by_activations(mix: float, similarity: str = "inner", effort: str = "default") -> _Variation:
    words = [f"activations, mix {mix:g}", similarity * (similarity != "inner")]
    words += [f"effort {effort}" * (effort != "default")]
    search = {"method": ACTIVATIONS, "effort": effort}
    return _Variation(
        ", ".join(filter(None, words)), search, {"mix": mix, "similarity": similarity}
    )


WEIGHTS = _Variation("weights", {})  # where the default is another method

# The order is that in which each lowered the least loss of those before it, relative to that of the
# default, on nine pairs of three networks; sinkhorn, which took nothing off, stands where it does
# for specs that no activations tell of.
WAYS: Mapping[str, Sequence[_Variation]] = {
    PERMUTATION: (
        WEIGHTS,
        _by_activations(0.35),
        _by_activations(0.1),
        _by_activations(0.5, "covariance"),
        _by_activations(0.6),
        _Variation("sinkhorn", {"method": "sinkhorn"}),
        _by_activations(0.25, effort="best"),
        _by_activations(0.5, "correlation"),
        _Variation("sinkhorn, loss l1", {"method": "sinkhorn", "loss": "l1"}),
        _by_activations(1),
        _Variation("effort best", {"effort": "best"}),
    ),
    ORTHOGONAL: (
        WEIGHTS,
        _Variation("activations", {"method": ACTIVATIONS}),
    ),
}


def candidates_of(
    kinds: Sequence[str], search: Search, activations: Activations, count: int
) -> tuple[Candidate, ...]:
    """Return at most `count` candidates; what align does without --select comes first.

    kinds: the classes of maps that are allowed. search, activations: as they were asked for.
    """
    found = [Candidate(DEFAULT, kind, search, activations) for kind in kinds]
    for kind in kinds:
        for one in (_candidate(way, kind, search, activations) for way in WAYS[kind]):
            if not any(_is_same_way(one, other) for other in found):
                found.append(one)
    return tuple(found[:count])


def _candidate(way: _Variation, kind: str, search: Search, activations: Activations) -> Candidate:
    """Return a way as a candidate; where units are looked at is as it was asked for."""
    usual = Search(order=search.order, fast=search.fast)
    places = Activations(point=activations.point, stream=activations.stream)
    changed = Activations() if way.activations is None else replace(places, **way.activations)
    return Candidate(way.name, kind, replace(usual, **way.search), changed)


def _is_same_way(one: Candidate, other: Candidate) -> bool:
    return replace(one, name="") == replace(other, name="")
