"""The commands that make new models out of others: merge and lerp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import parameters as o
from rebasin_cli.options import renormalization as c
from rebasin_cli.options import search as s
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.data import with_data
from rebasin_cli.options.extend import argument, options_in

Strategy = Annotated[
    str | None,
    options_in(s.PANEL)(
        "--strategy",
        metavar="many|universe|star|sync|none",
        help="Align each to all others in turn, all at once, each to the reference, pair by pair "
        "and reconciled, or not at all; default: many up to 8, then star.",
    ),
]


Weights = Annotated[
    list[str] | None,
    options_in(o.MEANS)("--weights", "-w", metavar="LIST", help="One for each MODEL."),
]


Reference = Annotated[
    Path | None,
    options_in(o.MEANS)(
        "--ref", metavar="MODEL", help="Whose order of units to keep; default: the first."
    ),
]


PreserveFirst = Annotated[
    str | None,
    options_in(t.PANEL)(
        "--preserve-first",
        metavar="K|GLOB",
        help="Keep the first K layers with weights of every model, or all up to the last that GLOB "
        "names, average what they return, and merge the rest; needs --model.",
    ),
]


@s.with_search
@t.with_model
@with_data
@o.sharing(o.SELECTING, o.COMBINING, o.WRITING, o.COMPUTING, o.CHECKING, o.SHOWING)
def merge(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, argument("MODEL...")] = None,
    out: o.Out = None,
    strategy: Strategy = None,
    weights: Weights = None,
    ref: Reference = None,
    preserve_first: PreserveFirst = None,
    renormalize: c.Renormalize = None,
    card: o.Card = False,
    null: o.Null = False,
    verbose: o.Verbose = 0,
) -> None:
    """Align the MODELs to one another and average them into one checkpoint.

    Reads paths from stdin if no MODEL is given. Models that `rebasin align` brought into one
    basin are only averaged. The result is divided by the sum of the weights. Tensors that --only
    and --skip leave out are those of the reference; counters are those of the largest weight.

    Examples:

        rebasin merge run-*/model.safetensors -o soup.safetensors

        rebasin merge a.pt b.pt c.pt -w 0.5,0.3,0.2 --strategy star

        find runs -name '*.pt' -print0 | rebasin merge -0 -o soup.pt

        rebasin merge a.pt b.pt --skip 'head.*'

        rebasin merge a.pt b.pt --renormalize reset --model net.py:Net --data data.py:train

        rebasin merge a.pt b.pt --preserve-first 4 --model net.py:Net

        rebasin merge a.pt b.pt --method zipit --model net.py:Net --data net.py:train
    """
    from rebasin_cli.commands.merge.plan import plan_merge
    from rebasin_cli.commands.merge.run import run_merge

    if preserve_first is not None:
        _preserve(ctx, models, preserve_first, ref)
        return
    if ctx.params["method"] in ("zipit", "cca"):
        _zip(ctx, models, ref)
        return
    deliver(
        ctx,
        lambda: plan_merge(
            o.piped_paths(models, null),
            options_from(ctx.params),
            strategy=strategy,
            weights=o.parse_numbers(weights),
            reference=ref,
            renormalize=c.asked_from(renormalize, ctx.params) if renormalize else None,
        ),
        run_merge,
    )


def _zip(ctx: typer.Context, models: list[Path] | None, ref: Path | None) -> None:
    """Merge hidden units by linear maps."""
    from rebasin_cli.commands.merge.linear_maps.plan import plan_zip
    from rebasin_cli.commands.merge.linear_maps.run import run_zip

    deliver(
        ctx,
        lambda: plan_zip(
            o.piped_paths(models, ctx.params["null"]),
            options_from(ctx.params),
            strategy=ctx.params["strategy"],
            weights=o.parse_numbers(ctx.params["weights"]),
            reference=ref,
            renormalize=c.asked_from(ctx.params["renormalize"], ctx.params)
            if ctx.params["renormalize"]
            else None,
        ),
        run_zip,
    )


def _preserve(ctx: typer.Context, models: list[Path] | None, first: str, ref: Path | None) -> None:
    """Merge all but the first layers of the models."""
    from rebasin_cli.commands.merge.preserve_first.plan import plan_preserve
    from rebasin_cli.commands.merge.preserve_first.run import run_preserve

    if ctx.params["method"] in ("zipit", "cca"):
        raise typer.BadParameter("--preserve-first permutes units; --method zipit and cca mix them")
    if ctx.params["card"]:
        raise typer.BadParameter("--card does not go with --preserve-first, which writes a module")
    if ctx.params["renormalize"] is not None:
        raise typer.BadParameter(
            "--renormalize does not go with --preserve-first: run `rebasin renormalize` on the "
            "result, with --model merged.py:build"
        )
    deliver(
        ctx,
        lambda: plan_preserve(
            o.piped_paths(models, ctx.params["null"]),
            options_from(ctx.params),
            first=first,
            strategy=ctx.params["strategy"],
            weights=o.parse_numbers(ctx.params["weights"]),
            reference=ref,
        ),
        run_preserve,
    )
