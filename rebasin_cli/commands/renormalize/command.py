"""The command `rebasin renormalize`."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.data import RUNNING, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import model_paths, models_argument
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, flags_in, options_of, with_options
from rebasin_cli.options.renormalization import PANEL, Renormalization
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.options.values import parse_numbers
from rebasin_cli.presentation.work import Work

_option = flags_in(PANEL)


@dataclass(frozen=True)
class RenormalizeRequest:
    """What is corrected, and by which parents.

    more: further parents, as the words behind the first one are typed. weights: of the parents;
    none: what the model's provenance says, else equal. align: whether parents may be moved.
    """

    model: Path = argument("MERGED", parse=named_path)
    more: Sequence[Path] = models_argument("", hidden=True)
    parents: Sequence[Path] = _option(
        "--parents",
        kind=list[Path] | None,
        parse=model_paths,
        metavar="A B...",
        help="What MERGED is the mean of; all files up to the next option.",
    )
    weights: Sequence[float] = _option(
        "--weights",
        "-w",
        kind=list[str] | None,
        parse=parse_numbers,
        metavar="LIST",
        help="Of the parents; default: as MERGED's provenance says, else equal.",
    )
    align: bool = _option(
        "--no-align",
        default=False,
        parse=operator.not_,
        help="The parents lie in MERGED's basin.",
    )
    renormalization: Renormalization = options_of(Renormalization)
    selection: Selection = options_of(Selection, *ALIGNING, "only_part")
    output: Output = options_of(Output, "out", *FORMING)
    computing: Computing = options_of(Computing, *MEANS)
    display: Display = options_of(Display)
    tracing: Tracing = options_of(Tracing)
    data: Data = options_of(Data, *RUNNING)


FIRST = ("parents", "method", "weights", "align", "sequential", "average", "factor", "decay")


@with_options("model", "more", *FIRST, "statistics", "out", "verbose")
def renormalize(request: RenormalizeRequest) -> Work:
    """Give the units of MERGED the statistics of its parents, inside its own weights.

    Averages have smaller activations than their parents. `reset` measures BatchNorm statistics anew
    and needs no parents; `repair`, `rescale` and `reshift` need them, a model and data; `calibrate`
    needs no data, for ReLU networks without norms. Writes NAME.renormalized.EXT, with the names and
    shapes of MERGED. Parents that lie in another basin are aligned to MERGED first.

    Examples:

        rebasin renormalize merged.pt --method reset --model net.py:Net --data data.py:train

        rebasin renormalize merged.pt --parents a.pt b.pt --method calibrate --model net.py:Net
    """
    from rebasin_cli.commands.renormalize.plan import plan_renormalize
    from rebasin_cli.commands.renormalize.report import PRESENTERS
    from rebasin_cli.commands.renormalize.run import run_renormalize

    _check_order(request)
    whole = replace(request, parents=[*request.parents, *request.more])
    plan = tracing_plan(plan_renormalize, whole, data=request.data.own)
    return Work("renormalize", request.display, plan, run_renormalize, PRESENTERS)


def _check_order(request: RenormalizeRequest) -> None:
    """Raise for `--parents A B MERGED`, where MERGED would be read as one of the parents."""
    words, merged = sys.argv, str(request.model)
    if request.parents and merged in words and words.index(merged) > words.index("--parents"):
        raise typer.BadParameter("MERGED stands before --parents, which takes all files behind it")
