"""The commands that reorder the units of models: align and apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import parameters as o
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import argument


@t.with_model
@o.sharing(o.READING, o.WRITING, o.CHECKING, o.SHOWING)
def apply(
    ctx: typer.Context,
    permutation: Annotated[Path, argument("PERM")],
    model: Annotated[Path, argument("MODEL")],
    inverse: Annotated[bool, typer.Option("--inverse", help="Undo the permutation.")] = False,
    out: o.Out = None,
    pass_through: o.PassThrough = None,
) -> None:
    """Apply a saved permutation to a checkpoint with the same tensors.

    For EMA weights, other dtypes and other stages of the model the permutation was found for.
    Writes NAME.permuted.EXT. Exact: --inverse gives back the same bytes. With --model the
    permuted model is run before it is written: its outputs must not move.

    Examples:

        rebasin align a.pt b.pt --save-permutation b.perm.safetensors

        rebasin apply b.perm.safetensors b-ema.pt

        rebasin apply b.perm.safetensors b-ema.permuted.pt --inverse -o back.pt
    """
    from rebasin_cli.commands.apply.plan import plan_apply
    from rebasin_cli.commands.apply.run import run_apply

    deliver(
        ctx,
        lambda: plan_apply(
            o.home_path(permutation),
            o.home_path(model),
            options_from(ctx.params),
            inverted=inverse,
        ),
        run_apply,
    )
