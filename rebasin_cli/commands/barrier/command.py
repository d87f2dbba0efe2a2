"""The command `rebasin barrier`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_cli.errors import UsageError
from rebasin_cli.options.computing import MEANS, Computing, ExecutorName
from rebasin_cli.options.data import JUDGING, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import Null, optional_file, piped_paths
from rebasin_cli.options.output import Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.symmetry_option import Tie, symmetry_option
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.options.values import parse_numbers
from rebasin_cli.presentation.work import Work
from rebasin_cli.progress import Progress

if TYPE_CHECKING:
    from rebasin_cli.commands.barrier.plan import BarrierPlan, BarrierRequest
    from rebasin_cli.commands.barrier.series.plan import SeriesPlan

_option, _file, _series = option("Curve"), option("Files"), option("Series")

Steps = Annotated[
    int | None,
    _option(
        "--steps",
        metavar="N",
        help="N points, both ends among them: alpha = k/(N-1); default: 25. With --plane N x N, "
        "default: 11.",
    ),
]
At = Annotated[
    list[str] | None,
    _option("--at", metavar="LIST", help="These points instead, as 0.25,0.5, and the ends."),
]
NoAlign = Annotated[
    bool, _option("--no-align", help="Only the models as they are: no second curve.")
]
Renormalize = Annotated[
    str | None,
    _option(
        "--renormalize",
        metavar="reset|repair|rescale|reshift|closed-form",
        help="A further curve, its points between the ends corrected on the data first.",
    ),
]
Diagnose = Annotated[
    bool,
    _option(
        "--diagnose",
        help="Also look into the layers halfway: variance, response, how alike the parents are; "
        "needs --data. With --plot a second picture, NAME-layers.",
    ),
]
AsPlane = Annotated[
    bool, _option("--plane", help="Three models: the plane through them, B and C aligned to A.")
]
Margin = Annotated[
    float | None,
    _option(
        "--margin",
        metavar="SHARE",
        help="How far the plane goes beyond the models; default: 0.2 of their extent.",
    ),
]
InSeries = Annotated[
    bool,
    _series(
        "--series",
        help="Many pairs, as of run-a/*.pt run-b/*.pt: the barrier of each, and one picture.",
    ),
]
PairBy = Annotated[
    str | None,
    _series(
        "--pair-by",
        metavar="number|order|folder",
        help="Pairs have the same number in their names, or the same place in both lists, or are "
        "the two models of a folder. Default: what fits. The lists are the two folders, or halves.",
    ),
]
AlignBy = Annotated[
    str | None,
    _series(
        "--align-by",
        metavar="each|last",
        help="Each pair is aligned by itself (the default), or all as the last pair is.",
    ),
]
Plot = Annotated[
    str | None,
    _file("--plot", metavar="FILE", help="Also draw it: .png, .svg or .html."),
]
Resume = Annotated[
    str | None,
    _file(
        "--resume",
        metavar="FILE",
        help="Keep each point in FILE (NDJSON) at once, and judge none again that is there.",
    ),
]
Symmetry = Annotated[str, symmetry_option("All models are folded (see rebasin fold).")]

OWN = ("steps", "at", "no_align", "renormalize", "diagnose", "plane", "margin", "plot", "resume")
IN_SERIES = ("series", "pair_by", "align_by")


@with_options("models", *OWN, *IN_SERIES, "null", "force", "verbose", "symmetry", "tie", "executor")
def barrier(
    models: Annotated[list[Path] | None, argument("A B [C]")] = None,
    steps: Steps = None,
    at: At = None,
    no_align: NoAlign = False,
    renormalize: Renormalize = None,
    diagnose: Diagnose = False,
    plane: AsPlane = False,
    margin: Margin = None,
    series: InSeries = False,
    pair_by: PairBy = None,
    align_by: AlignBy = None,
    plot: Plot = None,
    resume: Resume = None,
    symmetry: Symmetry = "permutation",
    tie: Tie = "auto",
    executor: ExecutorName = "local",
    null: Null = False,
    *,
    selection: Annotated[Selection, offer(*ALIGNING)],
    output: Annotated[Output, offer("force")],
    computing: Annotated[Computing, offer(*MEANS)],
    display: Display,
    data: Annotated[Data, offer(*JUDGING)],
    tracing: Tracing,
    search: Search,
) -> Work:
    """Run the models between A and B, as they are and with B aligned to A: how high is the barrier?

    --model says how to build the model, --data what to run it on. Without --evaluate each point
    has its cross-entropy and accuracy on the data. The spec to align by is traced from the model,
    unless --spec names one.

    Examples:

        rebasin barrier a.pt b.pt --model net.py:Net --data net.py:test_set

        rebasin barrier a.pt b.pt --model net.py:Net --evaluate net.py:loss --plot curve.png

        rebasin barrier a.pt b.pt c.pt --plane --model net.py:Net --data net.py:test_set

        rebasin barrier --series run-a/*.pt run-b/*.pt --model net.py:Net --data net.py:test_set

        rebasin barrier a.pt b.pt --symmetry orthogonal --spec gpt2 --model hf:a/ --data d.py:text
    """
    from rebasin_cli.commands.barrier.plan import BarrierRequest
    from rebasin_cli.commands.barrier.report import PRESENTERS
    from rebasin_cli.commands.barrier.series.report import SERIES

    places, traced = parse_numbers(at), tracing.of(tracing.target, data.data)

    def plan(told: Progress) -> BarrierPlan | SeriesPlan:
        request = BarrierRequest(
            models=piped_paths(models, null=null),
            steps=steps,
            at=places,
            align=not no_align,
            plane=plane,
            margin=margin,
            renormalize=renormalize,
            picture=optional_file(plot),
            resume=optional_file(resume),
            diagnose=diagnose,
            symmetry=symmetry,
            tie=tie,
            executor=executor,
            selection=selection,
            output=output,
            computing=computing,
            tracing=traced.telling(told),
            search=search,
            data=data,
            display=display,
        )
        return _planned(request, pair_by, align_by, series=series)

    return Work("barrier", display, plan, _run, {**PRESENTERS, **SERIES})


def _planned(
    request: BarrierRequest, pair_by: str | None, align_by: str | None, *, series: bool
) -> BarrierPlan | SeriesPlan:
    """Return the plan of a series, or of one line or plane. Raises UsageError, as planning does."""
    from rebasin_cli.commands.barrier.plan import plan_barrier
    from rebasin_cli.commands.barrier.series.plan import EACH, plan_series
    from rebasin_cli.pictures.drawing import require_matplotlib

    if request.picture is not None:
        require_matplotlib()
    if series:
        return plan_series(request, pair_by=pair_by, align_by=align_by or EACH)
    for given, flag in ((pair_by, "--pair-by"), (align_by, "--align-by")):
        if given is not None:
            raise UsageError(f"{flag} is for many pairs of models", hint="--series")
    return plan_barrier(request)


def _run(plan: BarrierPlan | SeriesPlan, progress: Any) -> Iterator[Any]:
    """Yield what is found, and the picture of it if one is wanted."""
    from rebasin_cli.commands.barrier.series.plan import SeriesPlan

    return _series_run(plan, progress) if isinstance(plan, SeriesPlan) else _way(plan, progress)


def _series_run(plan: SeriesPlan, progress: Any) -> Iterator[Any]:
    from rebasin_cli.commands.barrier.series.run import Series, run_series
    from rebasin_cli.commands.barrier.series.series_plot import draw_series

    for outcome in run_series(plan, progress):
        yield outcome
        if isinstance(outcome, Series) and outcome.complete and plan.picture is not None:
            yield draw_series(outcome, plan.picture)


def _way(plan: BarrierPlan, progress: Any) -> Iterator[Any]:
    from rebasin_cli.commands.barrier.layers.figures import DiagnosedLayers
    from rebasin_cli.commands.barrier.layers.layers_plot import draw_layers
    from rebasin_cli.commands.barrier.plot import draw
    from rebasin_cli.commands.barrier.run import run_barrier
    from rebasin_cli.commands.barrier.scored_points import Contour, Curves

    for outcome in run_barrier(plan, progress):
        yield outcome
        if isinstance(outcome, DiagnosedLayers) and plan.layers is not None:
            yield draw_layers(outcome, plan.layers)
        if not isinstance(outcome, Curves | Contour) or plan.picture is None:
            continue
        if outcome.survey.complete:
            yield draw(outcome, plan.picture)
