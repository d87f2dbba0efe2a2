"""The options about what units do on data, and the command that gathers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rebasin_cli.cli import options as o
from rebasin_cli.cli import tracing as t
from rebasin_cli.cli.deliver import deliver
from rebasin_cli.cli.extend import extended, options_in
from rebasin_cli.cli.running import with_data

if TYPE_CHECKING:
    from rebasin_cli.plan.options import Activations

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
    from rebasin_cli.plan.options import Activations

    said = {
        name: params[name] for name in ("similarity", "mix", "moment", "reach") if name in params
    }
    file = params.get("statistics_file")
    return Activations(**said, statistics=o.home_path(file) if file else None)


def _with_places(command: Callable[..., None]) -> Callable[..., None]:
    return extended(command, _PLACES)


@_with_places
@with_data
@t.with_model
@o.sharing(o.COMPUTING, o.SHOWING)
def statistics(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, typer.Argument(metavar="A [B]")] = None,
    out: o.Out = None,
    key: o.Key = None,
    force: o.Force = False,
    no_clobber: o.NoClobber = False,
) -> None:
    """Run A, or A and B, on data, and write what their units do: a small safetensors file.

    For every group the mean and the variance of its units, and for a pair the covariances of the
    units of one with those of the other. One pass over the data serves all groups. Writes
    A.statistics.safetensors and prints its path. With it `rebasin align A B --method activations`
    needs neither the model nor the data.

    Examples:

        rebasin statistics a.pt b.pt --model net.py:Net --data data.py:batches

        rebasin align a.pt b.pt --method activations --statistics a.statistics.safetensors
    """
    from rebasin_cli.plan.statistics import plan_statistics
    from rebasin_cli.run.statistics import run_statistics

    deliver(
        ctx,
        lambda: plan_statistics(o.model_paths(models), o.options_from(ctx.params)),
        run_statistics,
    )


COMMANDS = (statistics,)
