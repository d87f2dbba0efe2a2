"""The commands that make new models out of others: merge and lerp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli import correcting as c
from rebasin_cli.cli import options as o
from rebasin_cli.cli import searching as s
from rebasin_cli.cli import tracing as t
from rebasin_cli.cli.chosen import options_from
from rebasin_cli.cli.deliver import deliver
from rebasin_cli.cli.extend import argument, options_in
from rebasin_cli.cli.running import with_data

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
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        help="N points inside: alpha = k/(N+1), so 99 gives 0.01 to 0.99.",
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option("--at", metavar="LIST", help="These points instead, as 0.25,0.5."),
]
Endpoints = Annotated[bool, typer.Option("--endpoints", help="The ends too.")]
Mode = Annotated[
    str,
    typer.Option("--mode", metavar="linear|slerp", help="Along the line, or each tensor's arc."),
]
AlignFirst = Annotated[bool, typer.Option("--align", help="Align B to A first.")]
Chain = Annotated[
    bool,
    typer.Option("--chain", help="More than two models: alpha runs from 0 to the last of them."),
]
Exec = Annotated[
    str | None,
    typer.Option(
        "--exec",
        metavar="CMD",
        help="Run this on each point, as 'eval.py {path} {alpha}'; its last line counts.",
    ),
]
Keep = Annotated[bool, typer.Option("--keep", help="Keep the files that --exec was run on.")]


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
    from rebasin_cli.plan.merge import plan_merge
    from rebasin_cli.run.merge import run_merge

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
    from rebasin_cli.plan.zip import plan_zip
    from rebasin_cli.run.zip import run_zip

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
    from rebasin_cli.plan.preserve import plan_preserve
    from rebasin_cli.run.preserve import run_preserve

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


@s.with_search
@t.with_model
@o.sharing(o.SELECTING, o.COMBINING, o.WRITING, o.COMPUTING, o.CHECKING, o.SHOWING)
def lerp(
    ctx: typer.Context,
    models: Annotated[list[Path] | None, argument("A B")] = None,
    steps: Steps = None,
    at: At = None,
    endpoints: Endpoints = False,
    mode: Mode = "linear",
    align: AlignFirst = False,
    chain: Chain = False,
    exec_: Exec = None,
    keep: Keep = False,
    out: o.Out = None,
    card: o.Card = False,
    null: o.Null = False,
    verbose: o.Verbose = 0,
) -> None:
    """Interpolate between A and B: (1 - alpha) A + alpha B, one checkpoint for each point.

    Reads paths from stdin if no MODEL is given. With --exec a file is removed as soon as the
    command has seen it, so a curve of 99 points takes the disk of one model, and stdout has
    one line a point: alpha, a tab, and what the command said.

    Examples:

        rebasin align a.pt b.pt | rebasin lerp --steps 99

        rebasin lerp a.pt b.pt --align --at 0.5 -o midpoint.pt

        rebasin lerp a.pt b.pt --steps 9 --endpoints --exec 'python eval.py {path}' --json
    """
    from rebasin_cli.plan.lerp import Line, plan_lerp
    from rebasin_cli.run.lerp import run_lerp

    deliver(
        ctx,
        lambda: plan_lerp(
            o.piped_paths(models, null),
            options_from(ctx.params),
            Line(
                steps=steps,
                at=o.parse_numbers(at),
                endpoints=endpoints,
                mode=mode,
                chain=chain,
                align=align,
                command=exec_,
                keep=keep,
            ),
        ),
        run_lerp,
    )


COMMANDS = (merge, lerp)
