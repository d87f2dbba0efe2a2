"""The command `rebasin lerp`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_cli.options.computing import Computing, executor_option
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import models_argument, null_option, with_piped
from rebasin_cli.options.output import Output, resume_option
from rebasin_cli.options.parameters import flag, options_of, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.symmetry_option import symmetry_option, tie_option
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.options.values import parse_numbers
from rebasin_cli.presentation.work import Work

if TYPE_CHECKING:
    from rebasin_cli.commands.lerp.plan import LerpPlan


@dataclass(frozen=True)
class LerpRequest:
    """What is asked of the line between models.

    steps: points strictly inside each segment; at: their places instead; endpoints: the ends
    too. align: bring the models into the basin of the first before. chain: more than two models,
    one segment after another. command: run on each point, whose file is then removed unless
    `keep`. resume: the list of finished points. symmetry: of the maps that align; orthogonal ones
    do also without `align`. tie: of heads then. executor: who makes the points.
    """

    models: Sequence[Path] = models_argument("A B")
    steps: int | None = flag(
        "--steps",
        metavar="N",
        help="N points inside: alpha = k/(N+1), so 99 gives 0.01 to 0.99.",
    )
    at: Sequence[float] = flag(
        "--at",
        kind=list[str] | None,
        parse=parse_numbers,
        metavar="LIST",
        help="These points instead, as 0.25,0.5.",
    )
    endpoints: bool = flag("--endpoints", default=False, help="The ends too.")
    mode: str = flag(
        "--mode",
        default="linear",
        metavar="linear|slerp",
        help="Along the line, or each tensor's arc.",
    )
    align: bool = flag("--align", default=False, help="Align B to A first.")
    chain: bool = flag(
        "--chain",
        default=False,
        help="More than two models: alpha runs from 0 to the last of them.",
    )
    command: str | None = flag(
        "--exec",
        metavar="CMD",
        help="Run this on each point, as 'eval.py {path} {alpha}'; its last line counts.",
    )
    keep: bool = flag("--keep", default=False, help="Keep the files that --exec was run on.")
    resume: Path | None = resume_option()
    symmetry: str = symmetry_option(
        "B is aligned to A first, and both are folded (see rebasin fold)."
    )
    tie: str = tie_option()
    null: bool = null_option()
    executor: str = executor_option()
    selection: Selection = options_of(Selection)
    output: Output = options_of(Output)
    computing: Computing = options_of(Computing)
    display: Display = options_of(Display)
    tracing: Tracing = options_of(Tracing)
    search: Search = options_of(Search)


LINE = ("steps", "at", "endpoints", "mode", "align", "chain", "command", "keep", "resume")


@with_options("models", *LINE, "out", "card", "null", "verbose", "symmetry", "tie", "executor")
def lerp(request: LerpRequest) -> Work:
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
    from rebasin_cli.commands.lerp.report import PRESENTERS
    from rebasin_cli.commands.lerp.resumed_line import run_resumed

    return Work("lerp", request.display, tracing_plan(_plan, request), run_resumed, PRESENTERS)


def _plan(request: LerpRequest) -> LerpPlan:
    from rebasin_cli.commands.lerp.plan import plan_lerp

    return plan_lerp(with_piped(request))
