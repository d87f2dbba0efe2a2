"""The command that gathers what units do on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import parameters as o
from rebasin_cli.options import tracing as t
from rebasin_cli.options.activations import with_places
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.data import with_data
from rebasin_cli.options.extend import argument


@with_places
@with_data
@t.with_model
@o.sharing(o.READING, o.COMPUTING, o.SHOWING)
def statistics(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, argument("A [B]")] = None,
    out: o.Out = None,
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
    from rebasin_cli.commands.statistics.plan import plan_statistics
    from rebasin_cli.commands.statistics.run import run_statistics

    deliver(
        ctx,
        lambda: plan_statistics(o.model_paths(models), options_from(ctx.params)),
        run_statistics,
    )


COMMANDS = (statistics,)
