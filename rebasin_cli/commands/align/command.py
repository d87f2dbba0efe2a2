"""The commands that reorder the units of models: align and apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import parameters as o
from rebasin_cli.options import search as s
from rebasin_cli.options import tracing as t
from rebasin_cli.options.activations import with_activations
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.data import with_data
from rebasin_cli.options.extend import argument
from rebasin_cli.options.learning import with_learning


@s.with_search
@with_learning
@with_activations
@with_data
@t.with_model
@o.sharing(o.SELECTING, o.COMBINING, o.WRITING, o.COMPUTING, o.CHECKING, o.SHOWING)
def align(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, argument("REF MODEL...")] = None,
    out: o.Out = None,
    save: o.Save = None,
    card: o.Card = False,
    verbose: o.Verbose = 0,
) -> None:
    """Permute the units of each MODEL so that it lies in REF's basin. Its function stays the same.

    Writes NAME.aligned.EXT beside each MODEL and prints REF and the new paths: the set that
    now lies in one basin, ready for `rebasin merge` or `rebasin lerp`.

    Examples:

        rebasin align a.safetensors b.safetensors

        rebasin align ref.pt run-*.pt -o aligned/ --spec vgg --save-permutation aligned/

        rebasin align a.pt b.pt | rebasin merge

        rebasin align a.pt b.pt -v
    """
    from rebasin_cli.commands.align.plan import plan_align
    from rebasin_cli.commands.align.run import run_align

    file = o.start_file(ctx.params["start"])
    ctx.params["start"] = None if file else ctx.params["start"]
    deliver(
        ctx,
        lambda: plan_align(o.model_paths(models), options_from(ctx.params), save=save, start=file),
        run_align,
    )
