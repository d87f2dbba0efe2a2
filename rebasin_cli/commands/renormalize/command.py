"""The command `rebasin renormalize`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.data import RUNNING, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import model_paths
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.renormalization import PANEL, Renormalization
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.options.values import parse_numbers
from rebasin_cli.presentation.work import Work

_option = option(PANEL)
ParentFiles = Annotated[
    list[Path] | None,
    _option(
        "--parents",
        metavar="A B...",
        help="What MERGED is the mean of; all files up to the next option.",
    ),
]
NoAlign = Annotated[
    bool,
    _option("--no-align", help="The parents lie in MERGED's basin."),
]
Weights = Annotated[
    list[str] | None,
    option(PANEL)(
        "--weights",
        "-w",
        metavar="LIST",
        help="Of the parents; default: as MERGED's provenance says, else equal.",
    ),
]

FIRST = ("parents", "method", "weights", "no_align", "sequential", "average", "factor", "decay")


@with_options("merged", "more", *FIRST, "statistics", "out", "verbose")
def renormalize(
    merged: Annotated[Path, argument("MERGED")],
    more: Annotated[list[Path] | None, argument("", hidden=True)] = None,
    parents: ParentFiles = None,
    weights: Weights = None,
    no_align: NoAlign = False,
    *,
    renormalization: Renormalization,
    selection: Annotated[Selection, offer(*ALIGNING, "only_part")],
    output: Annotated[Output, offer("out", *FORMING)],
    computing: Annotated[Computing, offer(*MEANS)],
    display: Display,
    tracing: Tracing,
    data: Annotated[Data, offer(*RUNNING)],
) -> Work:
    """Give the units of MERGED the statistics of its parents, inside its own weights.

    Averages have smaller activations than their parents. `reset` measures BatchNorm statistics anew
    and needs no parents; `repair`, `rescale` and `reshift` need them, a model and data; `calibrate`
    needs no data, for ReLU networks without norms. Writes NAME.renormalized.EXT, with the names and
    shapes of MERGED. Parents that lie in another basin are aligned to MERGED first.

    Examples:

        rebasin renormalize merged.pt --method reset --model net.py:Net --data data.py:train

        rebasin renormalize merged.pt --parents a.pt b.pt --method calibrate --model net.py:Net
    """
    from rebasin_cli.commands.renormalize.plan import RenormalizeRequest, plan_renormalize
    from rebasin_cli.commands.renormalize.report import PRESENTERS
    from rebasin_cli.commands.renormalize.run import run_renormalize

    _check_order(merged, parents or ())
    request = RenormalizeRequest(
        model=named_path(merged),
        renormalization=renormalization,
        parents=model_paths([*(parents or ()), *(more or ())]),
        weights=parse_numbers(weights),
        align=not no_align,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target, data.data),
        data=data,
    )
    return Work(
        "renormalize", display, planned_by(plan_renormalize, request), run_renormalize, PRESENTERS
    )


def _check_order(merged: Path, parents: Sequence[Path]) -> None:
    """Raise for `--parents A B MERGED`: what follows an option cannot be told apart from it."""
    words = sys.argv
    if parents and str(merged) in words and words.index(str(merged)) > words.index("--parents"):
        raise typer.BadParameter("MERGED stands before --parents, which takes all files behind it")
