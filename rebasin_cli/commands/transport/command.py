"""The command `rebasin transport`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import typer

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import JUDGING, Data
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import Output
from rebasin_cli.options.parameters import (
    REQUIRED,
    argument,
    flag,
    flags_in,
    options_of,
    with_options,
)
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.symmetry_option import tie_option
from rebasin_cli.options.tracing import PANEL, Tracing, tracing_plan
from rebasin_cli.presentation.work import Work

PERMUTATION = "permutation"  # the map that is exact
LAYERWISE = "layerwise"
# What is written: the base and the difference, that alone, or an adapter, which is one.
MODEL, DELTA, ADAPTER = "model", "delta", "adapter"
AUTO = "auto"
_option = flags_in("Transport")


def _scale(text: str) -> float | None:
    """Return what a difference is multiplied by; None: it is to be found."""
    if text == AUTO:
        return None
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise typer.BadParameter(f"--scale {text} is neither a number nor auto")
    return scale


@dataclass(frozen=True)
class TransportRequest:
    """The difference of which models is carried, to which model, and how.

    tuned - origin is carried to onto. map: a key of `WAYS`. scale: what the difference is
    multiplied by; None: chosen on held-out batches. form: MODEL or DELTA. masked: only what agrees
    with the slope of the target's loss is kept. from_model: how the origin is built where that is
    not how the target is. tie: of heads that are folded into.
    """

    tuned: Path = argument("TUNED", parse=named_path)
    origin: Path = _option(
        "--from",
        default=REQUIRED,
        parse=named_path,
        metavar="BASE_A",
        help="The model that TUNED was trained from.",
    )
    onto: Path = _option(
        "--to",
        default=REQUIRED,
        parse=named_path,
        metavar="BASE_B",
        help="The model that gets the difference.",
    )
    map: str = _option(
        "--map",
        default=PERMUTATION,
        metavar="permutation|orthogonal|layerwise",
        help="permutation: the order of units, exact. orthogonal: rotations too, between folded "
        "models (rebasin fold): the result is folded. layerwise: each layer by what it reads and "
        "writes on --data; needs --model.",
    )
    scale: float | None = _option(
        "--scale",
        kind=str,
        default="1",
        parse=_scale,
        metavar="X|auto",
        help="What the difference is multiplied by; auto: what loses least on held-out batches.",
    )
    form: str = _option(
        "--as",
        default=MODEL,
        metavar="model|delta",
        help="Write BASE_B with the difference, or that alone.",
    )
    masked: bool = _option(
        "--mask-gradients",
        default=False,
        help="Keep what has the sign of minus the gradient of BASE_B's loss on --data.",
    )
    from_model: str | None = flag(
        "--from-model",
        rich_help_panel=PANEL,
        metavar="TARGET",
        help="With --map layerwise: how BASE_A and TUNED are built, if not as --model says.",
    )
    tie: str = tie_option()
    selection: Selection = options_of(Selection, *ALIGNING)
    output: Output = options_of(Output)
    computing: Computing = options_of(Computing)
    display: Display = options_of(Display, *SHOWING)
    data: Data = options_of(Data, *JUDGING)
    tracing: Tracing = options_of(Tracing)
    search: Search = options_of(Search)

    @property
    def tracing_of_origin(self) -> Tracing:
        """How the origin and the tuned model are built."""
        if self.from_model is None:
            return self.tracing
        return Tracing(target=self.from_model, cache=self.tracing.cache)


OWN = ("map", "scale", "form", "masked")


@with_options("tuned", "origin", "onto", *OWN, "out")
def transport(request: TransportRequest) -> Work:
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
    from rebasin_cli.commands.transport.run import run_transport

    plan = tracing_plan(plan_transport, request, data=request.data.own)
    return Work("transport", request.display, plan, run_transport, PRESENTERS)
