"""The command `rebasin transport`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import JUDGING, Data
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.symmetry_option import Tie
from rebasin_cli.options.tracing import PANEL, Tracing, planned_by
from rebasin_cli.presentation.work import Work

_option = option("Transport")
Origin = Annotated[
    Path, _option("--from", metavar="BASE_A", help="The model that TUNED was trained from.")
]
Onto = Annotated[
    Path, _option("--to", metavar="BASE_B", help="The model that gets the difference.")
]
Map = Annotated[
    str,
    _option(
        "--map",
        metavar="permutation|orthogonal|layerwise",
        help="permutation: the order of units, exact. orthogonal: rotations too, between folded "
        "models (rebasin fold): the result is folded. layerwise: each layer by what it reads and "
        "writes on --data; needs --model.",
    ),
]
Scale = Annotated[
    str,
    _option(
        "--scale",
        metavar="X|auto",
        help="What the difference is multiplied by; auto: what loses least on held-out batches.",
    ),
]
Form = Annotated[
    str,
    _option("--as", metavar="model|delta", help="Write BASE_B with the difference, or that alone."),
]
Masked = Annotated[
    bool,
    _option(
        "--mask-gradients",
        help="Keep what has the sign of minus the gradient of BASE_B's loss on --data.",
    ),
]
FromModel = Annotated[
    str | None,
    option(PANEL)(
        "--from-model",
        metavar="TARGET",
        help="With --map layerwise: how BASE_A and TUNED are built, if not as --model says.",
    ),
]
OWN = ("map_", "scale", "form", "masked")


@with_options("tuned", "origin", "onto", *OWN, "out")
def transport(
    tuned: Annotated[Path, argument("TUNED")],
    origin: Origin,
    onto: Onto,
    map_: Map = "permutation",
    scale: Scale = "1",
    form: Form = "model",
    masked: Masked = False,
    from_model: FromModel = None,
    tie: Tie = "auto",
    *,
    selection: Annotated[Selection, offer(*ALIGNING)],
    output: Output,
    computing: Computing,
    display: Annotated[Display, offer(*SHOWING)],
    data: Annotated[Data, offer(*JUDGING)],
    tracing: Tracing,
    search: Search,
) -> Work:
    """Carry what fine-tuning changed from one model to another that was trained apart.

    TUNED - BASE_A is brought to where BASE_B has its units, and added to it: TUNED.transported.EXT
    in the form of BASE_B. With --model and --data it also prints what BASE_B, BASE_B with the
    difference as it is and as it was carried, and TUNED are worth. Tensors that BASE_A has not, or
    in another shape, such as a head for other classes, are those of TUNED.

    Examples:

        rebasin transport tuned.safetensors --from a.safetensors --to b.safetensors

        rebasin transport tuned.pt --from a.pt --to b.pt --model net.py:Net --data net.py:test

        rebasin transport tuned/ --from a/ --to b/ --map orthogonal -o tuned-b/

        rebasin transport t.pt --from a.pt --to b.pt --map layerwise --model n.py:Net --data n.py:x
    """
    from rebasin_cli.commands.transport.plan import plan_transport
    from rebasin_cli.commands.transport.report import PRESENTERS
    from rebasin_cli.commands.transport.request import TransportRequest
    from rebasin_cli.commands.transport.run import run_transport

    request = TransportRequest(
        tuned=named_path(tuned),
        origin=named_path(origin),
        target=named_path(onto),
        map=map_,
        scale=_scale(scale),
        form=form,
        masked=masked,
        tie=tie,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target, data.data),
        origin_tracing=Tracing(target=from_model, cache=tracing.cache),
        search=search,
        data=data,
    )
    plan = planned_by(plan_transport, request)
    return Work("transport", display, plan, run_transport, PRESENTERS)


def _scale(text: str) -> float | None:
    """Return what a difference is multiplied by; None: it is to be found."""
    if text == "auto":
        return None
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise typer.BadParameter(f"--scale {text} is neither a number nor auto")
    return scale
