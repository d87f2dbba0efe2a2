"""How units are compared by what they do on data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.options.parameters import flags_in
from rebasin_cli.options.values import optional_path

_option = flags_in("Activations (--method activations)")


@dataclass(frozen=True)
class Activations:
    """How units are compared by what they do.

    statistics: a file of it; None: the models are run. similarity: a key of `SIMILARITIES`.
    mix: the share of the activations, the rest are the weights. point, stream: where units are
    looked at, after or before their activation, of a residual stream in all places or the last.
    """

    statistics: Path | None = _option(
        "--statistics",
        parse=optional_path,
        metavar="FILE",
        help="What `rebasin statistics` wrote of the two models; no model is run then.",
    )
    similarity: str = _option(
        "--similarity",
        default="inner",
        metavar="inner|covariance|correlation|absolute",
        help="How two units are compared; absolute: correlation without its sign.",
    )
    mix: float = _option(
        "--mix",
        default=1.0,
        metavar="SHARE",
        help="Share of the activations, as 0.5; the rest are the weights. 1: activations alone.",
    )
    point: str = _option(
        "--point",
        default="after",
        metavar="after|before",
        help="Look at units after their activation function, or before it.",
    )
    stream: str = _option(
        "--stream",
        default="all",
        metavar="all|last",
        help="Look at a residual stream wherever a layer reads it, or only at its end.",
    )


PLACES = ("point", "stream")
