"""The options about what units do on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_cli.options.extend import extended, options_in
from rebasin_cli.options.parameters import home_path

if TYPE_CHECKING:
    from rebasin_cli.options.groups import Activations

PANEL = "Activations (--method activations)"
_option = options_in(PANEL)

StatisticsFile = Annotated[
    Path | None,
    _option(
        "--statistics",
        metavar="FILE",
        help="What `rebasin statistics` wrote of the two models; no model is run then.",
    ),
]
Similarity = Annotated[
    str,
    _option(
        "--similarity",
        metavar="inner|covariance|correlation|absolute",
        help="How two units are compared; absolute: correlation without its sign.",
    ),
]
Mix = Annotated[
    float,
    _option(
        "--mix",
        metavar="SHARE",
        help="Share of the activations, as 0.5; the rest are the weights. 1: activations alone.",
    ),
]
Moment = Annotated[
    str,
    _option(
        "--point",
        metavar="after|before",
        help="Look at units after their activation function, or before it.",
    ),
]

Reach = Annotated[
    str,
    _option(
        "--stream",
        metavar="all|last",
        help="Look at a residual stream wherever a layer reads it, or only at its end.",
    ),
]

_PLACES: Mapping[str, tuple[Any, Any]] = {"moment": (Moment, "after"), "reach": (Reach, "all")}
_MATCHING: Mapping[str, tuple[Any, Any]] = {
    "statistics_file": (StatisticsFile, None),
    "similarity": (Similarity, "inner"),
    "mix": (Mix, 1.0),
    **_PLACES,
}


def with_activations(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has the options about matching on activations."""
    return extended(command, _MATCHING)


def activations_from(params: Mapping[str, Any]) -> Activations:
    """Return what a command's parameters say about activations."""
    from rebasin_cli.options.groups import Activations

    said = {
        name: params[name] for name in ("similarity", "mix", "moment", "reach") if name in params
    }
    file = params.get("statistics_file")
    return Activations(**said, statistics=home_path(file) if file else None)


def with_places(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has the options about where units are looked at."""
    return extended(command, _PLACES)
