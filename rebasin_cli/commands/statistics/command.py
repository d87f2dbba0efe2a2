"""The command `rebasin statistics`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.options.activations import PLACES, Activations
from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.data import WRITING, WRITTEN, Data
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.model_paths import model_paths
from rebasin_cli.options.output import PLACING, Output
from rebasin_cli.options.parameters import argument, offer, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.presentation.work import Work


@with_options("models", *PLACING)
def statistics(
    models: Annotated[list[Path] | None, argument("A [B]")] = None,
    *,
    output: Annotated[Output, offer(*PLACING)],
    selection: Annotated[Selection, offer(*READING)],
    computing: Annotated[Computing, offer(*MEANS)],
    display: Annotated[Display, offer(*SHOWING)],
    tracing: Tracing,
    data: Annotated[Data, offer(*WRITING, data=WRITTEN)],
    activations: Annotated[Activations, offer(*PLACES)],
) -> Work:
    """Run A, or A and B, on data, and write what their units do: a small safetensors file.

    For every group the mean and the variance of its units, and for a pair the covariances of the
    units of one with those of the other. One pass over the data serves all groups. Writes
    A.statistics.safetensors and prints its path. With it `rebasin align A B --method activations`
    needs neither the model nor the data.

    Examples:

        rebasin statistics a.pt b.pt --model net.py:Net --data data.py:batches

        rebasin align a.pt b.pt --method activations --statistics a.statistics.safetensors
    """
    from rebasin_cli.commands.statistics.plan import StatisticsRequest, plan_statistics
    from rebasin_cli.commands.statistics.report import PRESENTERS
    from rebasin_cli.commands.statistics.run import run_statistics

    request = StatisticsRequest(
        models=model_paths(models),
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target, data.own),
        data=data,
        activations=activations,
    )
    return Work(
        "statistics", display, planned_by(plan_statistics, request), run_statistics, PRESENTERS
    )
