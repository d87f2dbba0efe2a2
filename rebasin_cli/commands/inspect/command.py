"""The command `rebasin inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.model_paths import model_paths
from rebasin_cli.options.parameters import argument, options_of, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.presentation.work import Work


@dataclass(frozen=True)
class InspectRequest:
    """What is looked into."""

    models: Sequence[Path] = argument("MODEL...", kind=list[Path], parse=model_paths)
    selection: Selection = options_of(Selection, "only", "skip", "sizes", *READING)
    display: Display = options_of(Display, *SHOWING)


@with_options("models", "only", "skip", "sizes")
def inspect(request: InspectRequest) -> Work:
    """Show what is in a checkpoint: tensors, dtypes, ties, size, and which bundled spec fits.

    Reads headers only.

    Examples:

        rebasin inspect model.safetensors

        rebasin inspect llama/ --json | jq .parameters
    """
    from rebasin_cli.commands.inspect.plan import plan_inspect
    from rebasin_cli.commands.inspect.report import PRESENTERS
    from rebasin_cli.commands.inspect.run import run_inspect

    return Work(
        "inspect", request.display, lambda _: plan_inspect(request), run_inspect, PRESENTERS
    )
