"""The command `rebasin widen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, parse_arguments, planned_by
from rebasin_cli.presentation.work import Work

_option = option("Widths")
To = Annotated[
    list[str] | None,
    _option(
        "--to",
        metavar="GROUP=N|MODEL",
        help="How many units: GROUP=512, GROUP=2x (a glob; repeatable), or those of a checkpoint "
        "or a config.json.",
    ),
]
WideArguments = Annotated[
    str | None,
    _option(
        "--wide-args",
        metavar="JSON",
        help="What builds the wider model: the arguments of --model, or what config.json then "
        "says, that change.",
    ),
]


@with_options("model", "out", "to", "wide_arguments", "spec", "sizes")
def widen(
    model: Annotated[Path, argument("MODEL")],
    to: To = None,
    wide_arguments: WideArguments = None,
    *,
    selection: Annotated[Selection, offer("spec", "sizes", "pass_through", *READING, "only_part")],
    output: Annotated[Output, offer("out", *FORMING)],
    computing: Annotated[Computing, offer("check")],
    display: Annotated[Display, offer(*SHOWING)],
    tracing: Tracing,
) -> Work:
    """Give groups of MODEL more units that do nothing. The function stays the same.

    Writes NAME.widened.EXT: the units that there are in their places, those that are new zero in
    all that writes and reads them. A residual stream is scaled so that its norms give what they
    gave. Where a spec does not tell that new units do nothing, the model is run to see it; what
    cannot be widened is refused with the reason. New units get no gradient: they are room for
    those of another model, see `rebasin align --widen`.

    Examples:

        rebasin widen small.safetensors --to large.safetensors

        rebasin widen mlp.safetensors --to 'hidden.*=512'

        rebasin widen llama/ --to 'hidden.*=2x' -o wide/

        rebasin widen net.pt --to 'c1=64' --model net.py:Net --wide-args '{"width": 64}'
    """
    from rebasin_cli.commands.widen.plan import WidenRequest, plan_widen
    from rebasin_cli.commands.widen.report import PRESENTERS
    from rebasin_cli.commands.widen.run import run_widen

    request = WidenRequest(
        model=named_path(model),
        to=tuple(to or ()),
        arguments=parse_arguments(wide_arguments, flag="--wide-args"),
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target),
    )
    return Work("widen", display, planned_by(plan_widen, request), run_widen, PRESENTERS)
