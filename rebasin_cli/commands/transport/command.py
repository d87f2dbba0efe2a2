"""The command `rebasin transport`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.options.values import home_path
from rebasin_cli.presentation.work import Work

_option = option("Transport")
Origin = Annotated[
    Path, _option("--from", metavar="BASE_A", help="The model that TUNED was trained from.")
]
Onto = Annotated[
    Path, _option("--to", metavar="BASE_B", help="The model that gets the difference.")
]
Scale = Annotated[
    float, _option("--scale", metavar="X", help="What the difference is multiplied by.")
]
Form = Annotated[
    str,
    _option("--as", metavar="model|delta", help="Write BASE_B with the difference, or that alone."),
]


@with_options("tuned", "origin", "onto", "scale", "form", "out")
def transport(
    tuned: Annotated[Path, argument("TUNED")],
    origin: Origin,
    onto: Onto,
    scale: Scale = 1.0,
    form: Form = "model",
    *,
    selection: Annotated[Selection, offer(*ALIGNING)],
    output: Output,
    computing: Computing,
    display: Annotated[Display, offer(*SHOWING)],
    tracing: Tracing,
    search: Search,
) -> Work:
    """Carry what fine-tuning changed from one model to another that was trained apart.

    TUNED - BASE_A is brought into the order of BASE_B and added to it.

    Examples:

        rebasin transport tuned.safetensors --from a.safetensors --to b.safetensors
    """
    from rebasin_cli.commands.transport.plan import plan_transport
    from rebasin_cli.commands.transport.report import PRESENTERS
    from rebasin_cli.commands.transport.request import TransportRequest
    from rebasin_cli.commands.transport.run import run_transport

    request = TransportRequest(
        tuned=home_path(tuned),
        origin=home_path(origin),
        target=home_path(onto),
        scale=scale,
        form=form,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target),
        search=search,
    )
    return Work(
        "transport", display, planned_by(plan_transport, request), run_transport, PRESENTERS
    )
