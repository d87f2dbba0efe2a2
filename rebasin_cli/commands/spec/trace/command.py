"""The command `rebasin spec trace`."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import PLACING, Output
from rebasin_cli.options.parameters import argument, flag, options_of, with_options
from rebasin_cli.options.tracing import COMPANIONS, Tracing, tracing_plan
from rebasin_cli.presentation.work import Work


@dataclass(frozen=True)
class TraceRequest:
    """Which model is traced. explain: tables are wanted instead of the text."""

    target: str = argument("TARGET")
    explain: bool = flag(
        "--explain", default=False, help="Show what moves, what does not, and why."
    )
    output: Output = options_of(Output, *PLACING)
    display: Display = options_of(Display, *SHOWING)
    tracing: Tracing = options_of(Tracing, *COMPANIONS)


@with_options("target", "explain", *PLACING, *SHOWING)
def trace(request: TraceRequest) -> Work:
    """Find the complete symmetry of a PyTorch model, prove it by running, and print its spec.

    TARGET is file.py:Class, pkg.mod:Class, torchvision:NAME, timm:NAME, hf:FOLDER or
    diffusers:FOLDER. No checkpoint is needed. The model is run with every group permuted at
    random; what changes its outputs is taken out again, and said.

    Examples:

        rebasin spec trace net.py:Net --input-shape 1,3,32,32 > net.yaml

        rebasin spec trace torchvision:resnet50 --explain

        rebasin spec trace hf:llama/ -o llama.yaml
    """
    from rebasin_cli.commands.spec.trace.plan import plan_trace
    from rebasin_cli.commands.spec.trace.report import PRESENTERS
    from rebasin_cli.commands.spec.trace.run import run_trace

    plan = tracing_plan(plan_trace, request)
    return Work("spec trace", request.display, plan, run_trace, PRESENTERS)
