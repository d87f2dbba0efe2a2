"""The command `rebasin inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.model_paths import model_paths
from rebasin_cli.options.parameters import argument, offer, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.presentation.work import Work


@with_options("models", "only", "skip", "sizes")
def inspect(
    models: Annotated[list[Path], argument("MODEL...")],
    *,
    selection: Annotated[Selection, offer("only", "skip", "sizes", *READING)],
    display: Annotated[Display, offer(*SHOWING)],
) -> Work:
    """Show what is in a checkpoint: tensors, dtypes, ties, size, and which bundled spec fits.

    Reads headers only.

    Examples:

        rebasin inspect model.safetensors

        rebasin inspect llama/ --json | jq .parameters
    """
    from rebasin_cli.commands.inspect.plan import InspectRequest, plan_inspect
    from rebasin_cli.commands.inspect.report import PRESENTERS
    from rebasin_cli.commands.inspect.run import run_inspect

    request = InspectRequest(model_paths(models), selection)
    return Work("inspect", display, lambda told: plan_inspect(request), run_inspect, PRESENTERS)
