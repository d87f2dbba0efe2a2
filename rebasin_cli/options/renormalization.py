"""How the statistics of a merged model are corrected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.options.parameters import flags_in
from rebasin_cli.options.values import optional_path

PANEL = "Statistics"
NAMES = "reset|repair|rescale|reshift|calibrate|closed-form"
_option = flags_in(PANEL)


@dataclass(frozen=True)
class Renormalization:
    """How the statistics of a model are corrected.

    method: None: `reset` with BatchNorm, else `rescale`. sequential: a pass a layer. average: one
    target for all units of a layer. factor: multiplies the target deviations. decay: a key of
    CALIBRATIONS: by what `calibrate` takes features to shrink. statistics: a file that `rebasin
    statistics` wrote, in place of parents and data.
    """

    method: str | None = _option(
        "--method",
        metavar=NAMES,
        help="BatchNorm anew; mean and deviation, only deviation, or only mean of the parents; "
        "biases without data; by correlations. Default: reset with BatchNorm, else rescale.",
    )
    sequential: bool = _option(
        "--sequential",
        default=False,
        help="A pass a layer, behind the corrections of those before: exact, and slow.",
    )
    average: bool = _option("--average", default=False, help="One target for all units of a layer.")
    factor: float = _option(
        "--factor", default=1.0, metavar="F", help="Multiply the target deviations."
    )
    decay: str = _option(
        "--decay",
        default="weights",
        metavar="weights|depth",
        help="How much features shrink before a bias, for calibrate: by how much shorter averaged "
        "weights are than the parents', or by 1/n in each layer, as published.",
    )
    statistics: Path | None = _option(
        "--statistics",
        parse=optional_path,
        metavar="FILE",
        help="Of the parents, from `rebasin statistics`: closed-form without data.",
    )


def renormalization_by(method: str | None) -> Renormalization | None:
    """Return how a result is corrected that --renormalize names a method for, if it does."""
    return Renormalization(method=method) if method else None
