"""The commands that reorder the units of models: align and apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import options as o
from rebasin_cli.cli import searching as s
from rebasin_cli.cli import tracing as t
from rebasin_cli.cli.activations import with_activations
from rebasin_cli.cli.chosen import options_from
from rebasin_cli.cli.deliver import deliver
from rebasin_cli.cli.extend import argument
from rebasin_cli.cli.learning import with_learning
from rebasin_cli.cli.running import with_data


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
    from rebasin_cli.plan.align import plan_align
    from rebasin_cli.run.align import run_align

    file = o.start_file(ctx.params["start"])
    ctx.params["start"] = None if file else ctx.params["start"]
    deliver(
        ctx,
        lambda: plan_align(o.model_paths(models), options_from(ctx.params), save=save, start=file),
        run_align,
    )


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
    from rebasin_cli.plan.apply import plan_apply
    from rebasin_cli.run.apply import run_apply

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


COMMANDS = (align, apply)
