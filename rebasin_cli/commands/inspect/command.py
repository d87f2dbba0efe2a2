"""The commands that look and compare: verify, diff, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import parameters as o
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import argument


@o.sharing(o.READING, o.SHOWING)
def inspect(
    ctx: typer.Context,
    models: Annotated[list[Path], argument("MODEL...")],
    only: o.Only = None,
    skip: o.Skip = None,
    sizes: o.Sizes = None,
) -> None:
    """Show what is in a checkpoint: tensors, dtypes, ties, size, and which bundled spec fits.

    Reads headers only.

    Examples:

        rebasin inspect model.safetensors

        rebasin inspect llama/ --json | jq .parameters
    """
    from rebasin_cli.commands.inspect.plan import plan_look
    from rebasin_cli.commands.inspect.run import run_inspect

    paths = o.model_paths(models)
    deliver(ctx, lambda: plan_look(paths, options_from(ctx.params)), run_inspect)
