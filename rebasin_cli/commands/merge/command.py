"""The command `rebasin merge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rebasin_cli.commands.merge.combining import Combining, GlobWeights, parse_weights
from rebasin_cli.options import search as search_options
from rebasin_cli.options import tracing as tracing_options
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import WRITING, WRITTEN, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import models_argument, null_option, with_piped
from rebasin_cli.options.output import Output, resume_option
from rebasin_cli.options.parameters import flag, flags_in, options_of, with_options
from rebasin_cli.options.renormalization import NAMES, PANEL, Renormalization, renormalization_by
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.symmetry_option import symmetry_option, tie_option
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.options.values import optional_file, optional_path
from rebasin_cli.presentation.work import Work

LINEAR = ("zipit", "cca")  # methods that mix units instead of permuting them
LEAST_SQUARES = "least-squares"
RUNNING = (*LINEAR, LEAST_SQUARES)  # methods that run the models, and keep no model's function
_search, _traced = flags_in(search_options.PANEL), flags_in(tracing_options.PANEL)
_file = flags_in("Files")

Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        "-w",
        rich_help_panel="Machine",
        readable=False,
        metavar="[GLOB=]LIST",
        help="One for each MODEL; GLOB= before them: for tensors of such names alone, "
        "{0..9} being each of these numbers; repeatable.",
    ),
]


@dataclass(frozen=True)
class MergeRequest:
    """What is to be merged, and how.

    strategy: None: `star` to a base, else `many` up to 8 models, `star` beyond. sync_method: a key
    of SYNC_METHODS; None: `spectral`. weights: of the models; none: equal. tensor_weights: for
    tensors that a glob names, in place of weights. reference: one of the models, whose frame the
    result has; None: the base, or the first. preserve_first: the layers that stay apart. width: of
    hidden layers, in widths of one model. renormalization: how the result's statistics are to be
    corrected; --spec then says how to align, and --model what is run. symmetry: of the maps that
    align. tie: of heads that are folded into. resume: the list of matches that were found.
    save_parents: the folder that the models go to, in the order of units that they are merged in.
    save_maps: the file of linear maps. combining: how the models are put together.
    """

    models: Sequence[Path] = models_argument("MODEL...")
    strategy: str | None = _search(
        "--strategy",
        metavar="many|universe|star|sync|sync-sweeps|none",
        help="Align each to all others in turn, all at once, each to the reference, pair by pair "
        "and reconciled, at the end or in every sweep, or not at all; default: many up to 8, then "
        "star.",
    )
    sync_method: str | None = _search(
        "--sync-method",
        metavar="spectral|stiefel|nmf",
        help="How --strategy sync and sync-sweeps reconcile pairs; default: spectral.",
    )
    weights: Sequence[float] = ()
    tensor_weights: Sequence[GlobWeights] = ()
    reference: Path | None = flag(
        "--ref",
        parse=optional_path,
        rich_help_panel="Machine",
        metavar="MODEL",
        help="Whose order of units to keep; default: the first, or the base.",
    )
    preserve_first: str | None = _traced(
        "--preserve-first",
        metavar="K|GLOB",
        help="Keep the first K layers with weights of every model, or all up to the last that GLOB "
        "names, average what they return, and merge the rest; needs --model.",
    )
    width: float = _traced(
        "--width",
        default=1.0,
        metavar="F",
        min=1.0,
        max=2.0,
        help="Of --method least-squares: how many times as many units hidden layers get as in one "
        "model; the most alike of both are merged, the others stand side by side. The class has to "
        "be built as wide to load the result.",
    )
    renormalization: Renormalization | None = flag(
        "--renormalize",
        kind=str | None,
        parse=renormalization_by,
        rich_help_panel=PANEL,
        metavar=NAMES,
        help="Correct the statistics of the result, see `rebasin renormalize`.",
    )
    symmetry: str = symmetry_option(
        "Each model is aligned to the reference, with --strategy universe to the mean of the "
        "others, and all are folded (rebasin fold)."
    )
    tie: str = tie_option()
    resume: Path | None = resume_option()
    null: bool = null_option()
    save_parents: Path | None = _file(
        "--save-parents",
        parse=optional_path,
        metavar="FOLDER",
        help="Also write every model with its units in the order that they are merged in.",
    )
    save_maps: Path | None = _file(
        "--save-maps",
        kind=str | None,
        parse=optional_file,
        metavar="FILE",
        help="Also write the linear maps of zipit or cca, of all models (safetensors).",
    )
    selection: Selection = options_of(Selection)
    output: Output = options_of(Output)
    computing: Computing = options_of(Computing)
    display: Display = options_of(Display)
    data: Data = options_of(Data, *WRITING, data=WRITTEN)
    tracing: Tracing = options_of(Tracing)
    search: Search = options_of(Search)
    combining: Combining = options_of(Combining)

    @property
    def paths(self) -> list[Path]:
        """All files that are read: the models, and the base last."""
        base = self.combining.base
        return [*self.models, *([base] if base else [])]

    @property
    def averages(self) -> bool:
        """Whether the result is the mean of the models, with the same weights in all tensors."""
        return not self.tensor_weights and self.combining == Combining()


COMBINED = ("strategy", "sync_method", "combine", "base", "density", "scale", "weights")
OWN = (*COMBINED, "reference", "preserve_first", "width", "renormalization")
SAVED = ("card", "save_parents", "save_maps", "resume")


@with_options("models", "out", *OWN, *SAVED, "null", "verbose", "symmetry", "tie")
def merge(request: MergeRequest, weights: Weights = None) -> Work:
    """Align the MODELs to one another and average them into one checkpoint.

    Reads paths from stdin if no MODEL is given. Models that `rebasin align` brought into one
    basin are only averaged. The mean is divided by the sum of the weights. Tensors that --only
    and --skip leave out are those of the reference; counters are those of the largest weight. With
    --base each model is aligned to it, and what they have learnt since is put together.

    Examples:

        rebasin merge run-*/model.safetensors -o soup.safetensors

        rebasin merge a.pt b.pt c.pt -w 0.5,0.3,0.2 --strategy star

        find runs -name '*.pt' -print0 | rebasin merge -0 -o soup.pt

        rebasin merge a.pt b.pt --skip 'head.*'

        rebasin merge a.pt b.pt c.pt --base base.pt --combine ties --density 0.2 --strategy none

        rebasin merge a.pt b.pt -w 0.5,0.5 -w 'model.layers.{0..9}.*=0.7,0.3' --combine slerp-n

        rebasin merge a.pt b.pt --renormalize reset --model net.py:Net --data data.py:train

        rebasin merge a.pt b.pt --preserve-first 4 --model net.py:Net

        rebasin merge a.pt b.pt --method zipit --model net.py:Net --data net.py:train

        rebasin merge a.pt b.pt --method least-squares --model net.py:Net --data net.py:train

        rebasin merge gpt-a/ gpt-b/ gpt-c/ --symmetry orthogonal --strategy universe
    """
    from rebasin_cli.commands.merge.checks import check_way
    from rebasin_cli.commands.merge.report import PRESENTERS

    numbers, by_glob = parse_weights(weights)
    request = replace(request, weights=numbers, tensor_weights=by_glob)
    plan, run = _way(request)

    def planned(request: MergeRequest) -> Any:
        check_way(request)
        return plan(with_piped(request))

    work = tracing_plan(planned, request, data=request.data.own)
    return Work("merge", request.display, work, run, PRESENTERS)


def _way(request: MergeRequest) -> tuple[Any, Any]:
    """Return what plans and what runs the way to merge that was asked for."""
    from rebasin_cli.folding.rotation_problem import rotates

    if rotates(request.symmetry, tie=request.tie):
        from rebasin_cli.commands.merge.orthogonal.plan import plan_rotated_merge
        from rebasin_cli.commands.merge.orthogonal.run import run_rotated_merge

        return plan_rotated_merge, run_rotated_merge
    if request.preserve_first is not None:
        from rebasin_cli.commands.merge.preserve_first.plan import plan_preserve
        from rebasin_cli.commands.merge.preserve_first.run import run_preserve

        return plan_preserve, run_preserve
    if request.search.method in LINEAR:
        from rebasin_cli.commands.merge.linear_maps.plan import plan_linear_maps
        from rebasin_cli.commands.merge.linear_maps.run import run_linear_maps

        return plan_linear_maps, run_linear_maps
    if request.search.method == LEAST_SQUARES:
        from rebasin_cli.commands.merge.least_squares.plan import plan_least_squares
        from rebasin_cli.commands.merge.least_squares.run import run_least_squares

        return plan_least_squares, run_least_squares
    from rebasin_cli.commands.merge.plan import plan_merge
    from rebasin_cli.commands.merge.resumed_matches import run_resumed

    return plan_merge, run_resumed
