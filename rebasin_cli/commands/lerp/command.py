"""The command `rebasin lerp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.options.computing import Computing, ExecutorName
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import Null, optional_file, piped_paths
from rebasin_cli.options.output import Output, Resume
from rebasin_cli.options.parameters import argument, option, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.symmetry_option import Tie, symmetry_option
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.options.values import parse_numbers
from rebasin_cli.presentation.work import Work
from rebasin_cli.progress import Progress

Steps = Annotated[
    int | None,
    option()(
        "--steps",
        metavar="N",
        help="N points inside: alpha = k/(N+1), so 99 gives 0.01 to 0.99.",
    ),
]
At = Annotated[
    list[str] | None,
    option()("--at", metavar="LIST", help="These points instead, as 0.25,0.5."),
]
Endpoints = Annotated[bool, option()("--endpoints", help="The ends too.")]

Mode = Annotated[
    str,
    option()("--mode", metavar="linear|slerp", help="Along the line, or each tensor's arc."),
]
AlignFirst = Annotated[bool, option()("--align", help="Align B to A first.")]
Symmetry = Annotated[
    str, symmetry_option("B is aligned to A first, and both are folded (see rebasin fold).")
]

Chain = Annotated[
    bool,
    option()("--chain", help="More than two models: alpha runs from 0 to the last of them."),
]
Exec = Annotated[
    str | None,
    option()(
        "--exec",
        metavar="CMD",
        help="Run this on each point, as 'eval.py {path} {alpha}'; its last line counts.",
    ),
]
Keep = Annotated[bool, option()("--keep", help="Keep the files that --exec was run on.")]


LINE = ("steps", "at", "endpoints", "mode", "align", "chain", "exec_", "keep", "resume")


@with_options("models", *LINE, "out", "card", "null", "verbose", "symmetry", "tie", "executor")
def lerp(
    models: Annotated[list[Path] | None, argument("A B")] = None,
    steps: Steps = None,
    at: At = None,
    endpoints: Endpoints = False,
    mode: Mode = "linear",
    align: AlignFirst = False,
    chain: Chain = False,
    exec_: Exec = None,
    keep: Keep = False,
    resume: Resume = None,
    symmetry: Symmetry = "permutation",
    tie: Tie = "auto",
    null: Null = False,
    executor: ExecutorName = "local",
    *,
    selection: Selection,
    output: Output,
    computing: Computing,
    display: Display,
    tracing: Tracing,
    search: Search,
) -> Work:
    """Interpolate between A and B: (1 - alpha) A + alpha B, one checkpoint for each point.

    Reads paths from stdin if no MODEL is given. With --exec a file is removed as soon as the
    command has seen it, so a curve of 99 points takes the disk of one model, and stdout has
    one line a point: alpha, a tab, and what the command said.

    Examples:

        rebasin align a.pt b.pt | rebasin lerp --steps 99

        rebasin lerp a.pt b.pt --align --at 0.5 -o midpoint.pt

        rebasin lerp a.pt b.pt --steps 9 --endpoints --exec 'python eval.py {path}' --json

        rebasin lerp gpt-a/ gpt-b/ --symmetry orthogonal --at 0.5
    """
    from rebasin_cli.commands.lerp.plan import LerpPlan, LerpRequest, plan_lerp
    from rebasin_cli.commands.lerp.report import PRESENTERS
    from rebasin_cli.commands.lerp.resumed_line import run_resumed

    places, traced = parse_numbers(at), tracing.of(tracing.target)

    def plan(told: Progress) -> LerpPlan:
        request = LerpRequest(
            models=piped_paths(models, null=null),
            steps=steps,
            at=places,
            endpoints=endpoints,
            mode=mode,
            chain=chain,
            align=align,
            command=exec_,
            keep=keep,
            resume=optional_file(resume),
            symmetry=symmetry,
            tie=tie,
            executor=executor,
            selection=selection,
            output=output,
            computing=computing,
            tracing=traced.telling(told),
            search=search,
            display=display,
        )
        return plan_lerp(request)

    return Work("lerp", display, plan, run_resumed, PRESENTERS)
