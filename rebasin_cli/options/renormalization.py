"""The options that say how a merged model's statistics are corrected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_cli.options.extend import options_in

if TYPE_CHECKING:
    from rebasin_cli.renormalization.plan import Asked

PANEL = "Statistics"
NAMES = "reset|repair|rescale|reshift|calibrate|closed-form"
_option = options_in(PANEL)

Method = Annotated[
    str | None,
    _option(
        "--method",
        metavar=NAMES,
        help="BatchNorm anew; mean and deviation, only deviation, or only mean of the parents; "
        "biases without data; by correlations. Default: reset with BatchNorm, else rescale.",
    ),
]
Renormalize = Annotated[
    str | None,
    _option(
        "--renormalize",
        metavar=NAMES,
        help="Correct the statistics of the result, see `rebasin renormalize`.",
    ),
]
ParentFiles = Annotated[
    list[Path] | None,
    _option(
        "--parents",
        metavar="A B...",
        help="What MERGED is the mean of; all files up to the next option.",
    ),
]
NoAlign = Annotated[
    bool,
    _option("--no-align", help="The parents lie in MERGED's basin."),
]
Sequential = Annotated[
    bool,
    _option(
        "--sequential",
        help="A pass a layer, behind the corrections of those before: exact, and slow.",
    ),
]
Average = Annotated[
    bool,
    _option("--average", help="One target for all units of a layer."),
]
Factor = Annotated[
    float,
    _option("--factor", metavar="F", help="Multiply the target deviations."),
]
Decay = Annotated[
    str,
    _option(
        "--decay",
        metavar="weights|depth",
        help="How much features shrink before a bias, for calibrate: by how much shorter averaged "
        "weights are than the parents', or by 1/n in each layer, as published.",
    ),
]
Statistics = Annotated[
    Path | None,
    _option(
        "--statistics",
        metavar="FILE",
        help="Of the parents, from `rebasin statistics`: closed-form without data.",
    ),
]


def asked_from(method: str | None, params: Mapping[str, Any]) -> Asked:
    """Return what a command's parameters say about correcting statistics."""
    from rebasin_cli.options.parameters import home_path
    from rebasin_cli.renormalization.plan import Asked

    statistics = params.get("statistics")
    return Asked(
        method=method,
        sequential=params.get("sequential", False),
        average=params.get("average", False),
        factor=params.get("factor", 1.0),
        decay=params.get("decay", "weights"),
        statistics=home_path(statistics) if statistics else None,
    )
