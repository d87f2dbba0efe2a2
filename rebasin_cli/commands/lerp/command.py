"""The commands that make new models out of others: merge and lerp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import parameters as o
from rebasin_cli.options import search as s
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import argument

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
    from rebasin_cli.commands.lerp.plan import Line, plan_lerp
    from rebasin_cli.commands.lerp.run import run_lerp

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
