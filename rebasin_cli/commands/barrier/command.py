"""The command `rebasin barrier`."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_cli.errors import UsageError
from rebasin_cli.options.computing import MEANS, Computing, executor_option
from rebasin_cli.options.data import JUDGING, Data
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import models_argument, null_option, with_piped
from rebasin_cli.options.output import Output
from rebasin_cli.options.parameters import flags_in, options_of, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.symmetry_option import symmetry_option, tie_option
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.options.values import optional_file, parse_numbers
from rebasin_cli.presentation.work import Work

if TYPE_CHECKING:
    from rebasin_cli.commands.barrier.plan import BarrierPlan
    from rebasin_cli.commands.barrier.series.plan import SeriesPlan

_option, _file, _series = flags_in("Curve"), flags_in("Files"), flags_in("Series")


@dataclass(frozen=True)
class BarrierRequest:
    """What is asked of the way between models.

    steps: points, ends included; None: the usual. at: places on a line instead. align: the other
    models to the first. renormalize: a method that corrects the points between, for one more
    curve. diagnose: look into the layers too. margin: of the plane, beyond the three models.
    series: many pairs. pair_by, align_by: as `pair_models` and `plan_series` take them. picture,
    resume: files. symmetry: of the maps that align; tie: of heads, where norms are folded.
    executor: who judges the points.
    """

    models: Sequence[Path] = models_argument("A B [C]")
    steps: int | None = _option(
        "--steps",
        metavar="N",
        help="N points, both ends among them: alpha = k/(N-1); default: 25. With --plane N x N, "
        "default: 11.",
    )
    at: Sequence[float] = _option(
        "--at",
        kind=list[str] | None,
        parse=parse_numbers,
        metavar="LIST",
        help="These points instead, as 0.25,0.5, and the ends.",
    )
    align: bool = _option(
        "--no-align",
        default=False,
        parse=operator.not_,
        help="Only the models as they are: no second curve.",
    )
    renormalize: str | None = _option(
        "--renormalize",
        metavar="reset|repair|rescale|reshift|closed-form",
        help="A further curve, its points between the ends corrected on the data first.",
    )
    diagnose: bool = _option(
        "--diagnose",
        default=False,
        help="Also look into the layers halfway: variance, response, how alike the parents are; "
        "needs --data. With --plot a second picture, NAME-layers.",
    )
    plane: bool = _option(
        "--plane",
        default=False,
        help="Three models: the plane through them, B and C aligned to A.",
    )
    margin: float | None = _option(
        "--margin",
        metavar="SHARE",
        help="How far the plane goes beyond the models; default: 0.2 of their extent.",
    )
    series: bool = _series(
        "--series",
        default=False,
        help="Many pairs, as of run-a/*.pt run-b/*.pt: the barrier of each, and one picture.",
    )
    pair_by: str | None = _series(
        "--pair-by",
        metavar="number|order|folder",
        help="Pairs have the same number in their names, or the same place in both lists, or are "
        "the two models of a folder. Default: what fits. The lists are the two folders, or halves.",
    )
    align_by: str | None = _series(
        "--align-by",
        metavar="each|last",
        help="Each pair is aligned by itself (the default), or all as the last pair is.",
    )
    picture: Path | None = _file(
        "--plot",
        kind=str | None,
        parse=optional_file,
        metavar="FILE",
        help="Also draw it: .png, .svg or .html.",
    )
    resume: Path | None = _file(
        "--resume",
        kind=str | None,
        parse=optional_file,
        metavar="FILE",
        help="Keep each point in FILE (NDJSON) at once, and judge none again that is there.",
    )
    symmetry: str = symmetry_option("All models are folded (see rebasin fold).")
    tie: str = tie_option()
    executor: str = executor_option()
    null: bool = null_option()
    selection: Selection = options_of(Selection, *ALIGNING)
    output: Output = options_of(Output, "force")
    computing: Computing = options_of(Computing, *MEANS)
    display: Display = options_of(Display)
    data: Data = options_of(Data, *JUDGING)
    tracing: Tracing = options_of(Tracing)
    search: Search = options_of(Search)


OWN = ("steps", "at", "align", "renormalize", "diagnose", "plane", "margin", "picture", "resume")
IN_SERIES = ("series", "pair_by", "align_by")


@with_options("models", *OWN, *IN_SERIES, "null", "force", "verbose", "symmetry", "tie", "executor")
def barrier(request: BarrierRequest) -> Work:
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
    from rebasin_cli.commands.barrier.report import PRESENTERS
    from rebasin_cli.commands.barrier.series.report import SERIES

    plan = tracing_plan(_plan, request, data=request.data.own)
    return Work("barrier", request.display, plan, _run, {**PRESENTERS, **SERIES})


def _plan(request: BarrierRequest) -> BarrierPlan | SeriesPlan:
    """Return the plan of a series, or of one line or plane. Raises UsageError, as planning does."""
    from rebasin_cli.commands.barrier.plan import plan_barrier
    from rebasin_cli.commands.barrier.series.plan import plan_series
    from rebasin_cli.pictures.drawing import require_matplotlib

    request = with_piped(request)
    if request.picture is not None:
        require_matplotlib()
    if request.series:
        return plan_series(request)
    for given, flag in ((request.pair_by, "--pair-by"), (request.align_by, "--align-by")):
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
