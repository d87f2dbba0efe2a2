"""The command `rebasin widen`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, flags_in, options_of, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, parse_arguments, tracing_plan
from rebasin_cli.options.values import in_tuple
from rebasin_cli.presentation.work import Work

_option = flags_in("Widths")


@dataclass(frozen=True)
class WidenRequest:
    """The model that is to be widened.

    to: texts such as `hidden.*=512`, or one path of a model as wide as that. wide_arguments: with
    which the class builds the wider model, besides those of the narrow one.
    """

    model: Path = argument("MODEL", parse=named_path)
    to: tuple[str, ...] = _option(
        "--to",
        kind=list[str] | None,
        parse=in_tuple,
        metavar="GROUP=N|MODEL",
        help="How many units: GROUP=512, GROUP=2x (a glob; repeatable), or those of a checkpoint "
        "or a config.json.",
    )
    wide_arguments: Mapping[str, object] = _option(
        "--wide-args",
        kind=str | None,
        parse=partial(parse_arguments, flag="--wide-args"),
        metavar="JSON",
        help="What builds the wider model: the arguments of --model, or what config.json then "
        "says, that change.",
    )
    selection: Selection = options_of(
        Selection, "spec", "sizes", "pass_through", *READING, "only_part"
    )
    output: Output = options_of(Output, "out", *FORMING)
    computing: Computing = options_of(Computing, "check")
    display: Display = options_of(Display, *SHOWING)
    tracing: Tracing = options_of(Tracing)


@with_options("model", "out", "to", "wide_arguments", "spec", "sizes")
def widen(request: WidenRequest) -> Work:
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
    from rebasin_cli.commands.widen.plan import plan_widen
    from rebasin_cli.commands.widen.report import PRESENTERS
    from rebasin_cli.commands.widen.run import run_widen

    return Work("widen", request.display, tracing_plan(plan_widen, request), run_widen, PRESENTERS)
