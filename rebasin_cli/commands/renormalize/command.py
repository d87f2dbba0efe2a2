"""The command that corrects the statistics of a merged model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import data as r
from rebasin_cli.options import parameters as o
from rebasin_cli.options import renormalization as c
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import argument, options_in

Weights = Annotated[
    list[str] | None,
    options_in(c.PANEL)(
        "--weights",
        "-w",
        metavar="LIST",
        help="Of the parents; default: as MERGED's provenance says, else equal.",
    ),
]


@r.with_data
@t.with_model
@o.sharing(o.SELECTING, o.WRITING, o.COMPUTING, o.SHOWING)
def renormalize(
    ctx: typer.Context,
    merged: Annotated[Path, argument("MERGED")],
    more: Annotated[list[Path] | None, argument("", hidden=True)] = None,
    parents: c.ParentFiles = None,
    how: c.Method = None,
    weights: Weights = None,
    no_align: c.NoAlign = False,
    sequential: c.Sequential = False,
    average: c.Average = False,
    factor: c.Factor = 1.0,
    decay: c.Decay = "weights",
    statistics: c.Statistics = None,
    out: o.Out = None,
    verbose: o.Verbose = 0,
) -> None:
    """Give the units of MERGED the statistics of its parents, inside its own weights.

    Averages have smaller activations than their parents. `reset` measures BatchNorm statistics anew
    and needs no parents; `repair`, `rescale` and `reshift` need them, a model and data; `calibrate`
    needs no data, for ReLU networks without norms. Writes NAME.renormalized.EXT, with the names and
    shapes of MERGED. Parents that lie in another basin are aligned to MERGED first.

    Examples:

        rebasin renormalize merged.pt --method reset --model net.py:Net --data data.py:train

        rebasin renormalize merged.pt --parents a.pt b.pt --method calibrate --model net.py:Net
    """
    from rebasin_cli.commands.renormalize.plan import plan_renormalize
    from rebasin_cli.commands.renormalize.run import run_renormalize

    _check_order(merged, parents or ())
    deliver(
        ctx,
        lambda: plan_renormalize(
            o.home_path(merged),
            options_from(ctx.params),
            c.asked_from(how, ctx.params),
            parents=o.model_paths([*(parents or ()), *(more or ())]),
            weights=o.parse_numbers(weights),
            align=not no_align,
        ),
        run_renormalize,
    )


def _check_order(merged: Path, parents: Sequence[Path]) -> None:
    """Raise for `--parents A B MERGED`: what follows an option cannot be told apart from it."""
    words = sys.argv
    if parents and str(merged) in words and words.index(str(merged)) > words.index("--parents"):
        raise typer.BadParameter("MERGED stands before --parents, which takes all files behind it")


COMMANDS = (renormalize,)
