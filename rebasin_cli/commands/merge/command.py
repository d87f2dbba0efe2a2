"""The command `rebasin merge`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from rebasin_cli.commands.merge.combining import Combining, parse_weights
from rebasin_cli.commands.merge.request import LEAST_SQUARES, LINEAR, MergeRequest
from rebasin_cli.options import search as search_options
from rebasin_cli.options import tracing as tracing_options
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import WRITING, WRITTEN, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import Null, optional_file, piped_paths
from rebasin_cli.options.output import Output, Resume
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.renormalization import NAMES, PANEL, renormalizing
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.symmetry_option import Tie, symmetry_option
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.options.values import optional_path
from rebasin_cli.presentation.work import Work
from rebasin_cli.progress import Progress

Strategy = Annotated[
    str | None,
    option(search_options.PANEL)(
        "--strategy",
        metavar="many|universe|star|sync|sync-sweeps|none",
        help="Align each to all others in turn, all at once, each to the reference, pair by pair "
        "and reconciled, at the end or in every sweep, or not at all; default: many up to 8, then "
        "star.",
    ),
]
SyncMethod = Annotated[
    str | None,
    option(search_options.PANEL)(
        "--sync-method",
        metavar="spectral|stiefel|nmf",
        help="How --strategy sync and sync-sweeps reconcile pairs; default: spectral.",
    ),
]
Weights = Annotated[
    list[str] | None,
    option("Machine")(
        "--weights",
        "-w",
        metavar="[GLOB=]LIST",
        help="One for each MODEL; GLOB= before them: for tensors of such names alone, "
        "{0..9} being each of these numbers; repeatable.",
    ),
]
Reference = Annotated[
    Path | None,
    option("Machine")(
        "--ref",
        metavar="MODEL",
        help="Whose order of units to keep; default: the first, or the base.",
    ),
]
PreserveFirst = Annotated[
    str | None,
    option(tracing_options.PANEL)(
        "--preserve-first",
        metavar="K|GLOB",
        help="Keep the first K layers with weights of every model, or all up to the last that GLOB "
        "names, average what they return, and merge the rest; needs --model.",
    ),
]
Width = Annotated[
    float,
    option(tracing_options.PANEL)(
        "--width",
        metavar="F",
        min=1.0,
        max=2.0,
        help="Of --method least-squares: how many times as many units hidden layers get as in one "
        "model; the most alike of both are merged, the others stand side by side. The class has to "
        "be built as wide to load the result.",
    ),
]

Renormalize = Annotated[
    str | None,
    option(PANEL)(
        "--renormalize",
        metavar=NAMES,
        help="Correct the statistics of the result, see `rebasin renormalize`.",
    ),
]
SaveParents = Annotated[
    Path | None,
    option("Files")(
        "--save-parents",
        metavar="FOLDER",
        help="Also write every model with its units in the order that they are merged in.",
    ),
]
SaveMaps = Annotated[
    str | None,
    option("Files")(
        "--save-maps",
        metavar="FILE",
        help="Also write the linear maps of zipit or cca, of all models (safetensors).",
    ),
]
Symmetry = Annotated[
    str,
    symmetry_option(
        "Each model is aligned to the reference, with --strategy universe to the mean of the "
        "others, and all are folded (rebasin fold)."
    ),
]
OWN = (
    "strategy",
    "sync_method",
    "combine",
    "base",
    "density",
    "scale",
    "weights",
    "ref",
    "preserve_first",
    "width",
    "renormalize",
)


SAVED = ("card", "save_parents", "save_maps", "resume")


@with_options("models", "out", *OWN, *SAVED, "null", "verbose", "symmetry", "tie")
def merge(
    models: Annotated[list[Path] | None, argument("MODEL...")] = None,
    strategy: Strategy = None,
    sync_method: SyncMethod = None,
    weights: Weights = None,
    ref: Reference = None,
    preserve_first: PreserveFirst = None,
    width: Width = 1.0,
    renormalize: Renormalize = None,
    symmetry: Symmetry = "permutation",
    tie: Tie = "auto",
    resume: Resume = None,
    null: Null = False,
    *,
    save_parents: SaveParents = None,
    save_maps: SaveMaps = None,
    selection: Selection,
    output: Output,
    computing: Computing,
    display: Display,
    data: Annotated[Data, offer(*WRITING, data=WRITTEN)],
    tracing: Tracing,
    search: Search,
    combining: Combining,
) -> Work:
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
    (numbers, by_glob), traced = parse_weights(weights), tracing.of(tracing.target, data.own)

    asked = MergeRequest(
        models=(),
        strategy=strategy,
        sync_method=sync_method,
        weights=numbers,
        tensor_weights=by_glob,
        reference=optional_path(ref),
        preserve_first=preserve_first,
        width=width,
        renormalization=renormalizing(renormalize),
        tie=tie,
        combining=combining,
        resume=optional_file(resume),
        save_parents=optional_path(save_parents),
        save_maps=optional_file(save_maps),
        selection=selection,
        output=output,
        computing=computing,
        search=search,
        data=data,
        tracing=traced,
    )
    plan, run = _way(asked, symmetry)
    from rebasin_cli.commands.merge.report import PRESENTERS
    from rebasin_cli.commands.merge.ways import check_way

    def planned(told: Progress) -> Any:
        check_way(asked, symmetry)
        paths, tracing = piped_paths(models, null=null), traced.telling(told)
        return plan(replace(asked, models=paths, tracing=tracing))

    return Work("merge", display, planned, run, PRESENTERS)


def _way(request: MergeRequest, symmetry: str) -> tuple[Any, Any]:
    """Return what plans and what runs the way to merge that was asked for."""
    from rebasin_cli.folding.rotation_problem import rotates

    if rotates(symmetry, tie=request.tie):
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
