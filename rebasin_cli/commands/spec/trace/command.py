"""The command `rebasin spec trace`."""

from __future__ import annotations

from typing import Annotated

from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import PLACING, Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.tracing import COMPANIONS, Tracing, planned_by
from rebasin_cli.presentation.work import Work

Explain = Annotated[bool, option()("--explain", help="Show what moves, what does not, and why.")]


@with_options("target_", "explain", *PLACING, *SHOWING)
def trace(
    target_: Annotated[str, argument("TARGET")],
    explain: Explain = False,
    *,
    output: Annotated[Output, offer(*PLACING)],
    display: Annotated[Display, offer(*SHOWING)],
    tracing: Annotated[Tracing, offer(*COMPANIONS)],
) -> Work:
    """Find the complete symmetry of a PyTorch model, prove it by running, and print its spec.

    TARGET is file.py:Class, pkg.mod:Class, torchvision:NAME, timm:NAME, hf:FOLDER or
    diffusers:FOLDER. No checkpoint is needed. The model is run with every group permuted at
    random; what changes its outputs is taken out again, and said.

    Examples:

        rebasin spec trace net.py:Net --input-shape 1,3,32,32 > net.yaml

        rebasin spec trace torchvision:resnet50 --explain

        rebasin spec trace hf:llama/ -o llama.yaml
    """
    from rebasin_cli.commands.spec.trace.plan import TraceRequest, plan_trace
    from rebasin_cli.commands.spec.trace.report import PRESENTERS
    from rebasin_cli.commands.spec.trace.run import run_trace

    request = TraceRequest(tracing.of(target_), explain, output)
    return Work("spec trace", display, planned_by(plan_trace, request), run_trace, PRESENTERS)
