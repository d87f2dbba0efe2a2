"""The command `rebasin statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.options.activations import PLACES, Activations
from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.data import WRITING, WRITTEN, Data
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.model_paths import models_argument
from rebasin_cli.options.output import PLACING, Output
from rebasin_cli.options.parameters import options_of, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.presentation.work import Work


@dataclass(frozen=True)
class StatisticsRequest:
    """Of which models, one or a pair, statistics are gathered."""

    models: Sequence[Path] = models_argument("A [B]")
    output: Output = options_of(Output, *PLACING)
    selection: Selection = options_of(Selection, *READING)
    computing: Computing = options_of(Computing, *MEANS)
    display: Display = options_of(Display, *SHOWING)
    tracing: Tracing = options_of(Tracing)
    data: Data = options_of(Data, *WRITING, data=WRITTEN)
    activations: Activations = options_of(Activations, *PLACES)
    search: Search = Search()


@with_options("models", *PLACING)
def statistics(request: StatisticsRequest) -> Work:
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
    from rebasin_cli.commands.statistics.report import PRESENTERS
    from rebasin_cli.commands.statistics.run import run_statistics

    plan = tracing_plan(plan_statistics, request, data=request.data.own)
    return Work("statistics", request.display, plan, run_statistics, PRESENTERS)
