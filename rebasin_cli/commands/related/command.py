"""The command `rebasin related`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import Null, optional_file, piped_paths
from rebasin_cli.options.output import Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.presentation.work import Work
from rebasin_cli.progress import Progress

if TYPE_CHECKING:
    from rebasin_cli.commands.related.plan import RelatedPlan

Plot = Annotated[
    str | None,
    option("Files")(
        "--plot", metavar="FILE", help="Also draw the scores of all pairs: .png, .svg or .html."
    ),
]


@with_options("models", "plot", "null", "force", "verbose")
def related(
    models: Annotated[list[Path] | None, argument("A B...")] = None,
    plot: Plot = None,
    null: Null = False,
    *,
    selection: Annotated[Selection, offer(*ALIGNING)],
    output: Annotated[Output, offer("force")],
    computing: Annotated[Computing, offer(*MEANS)],
    display: Display,
    tracing: Tracing,
) -> Work:
    """What are models to each other: a copy, a fine-tune, a merge, or independent runs?

    Of weights alone. Permuting units, rotating the residual stream, scaling units and invertible
    maps inside attention heads hide nothing: they are undone, or taken out of both models, before
    matrices are compared. Each score stands beside its null value, what the same search makes of
    weights that have nothing in common. -v: a line for each matrix.

    Examples:

        rebasin related base.safetensors mine.safetensors

        rebasin related a/ b/ c/ --plot kinship.html

        rebasin related a.pt b.pt --model net.py:Net --input-shape 1,3,32,32 --json
    """
    from rebasin_cli.commands.related.plan import RelatedRequest, plan_related
    from rebasin_cli.commands.related.report import PRESENTERS
    from rebasin_cli.pictures.drawing import require_matplotlib

    traced = tracing.of(tracing.target)

    def plan(told: Progress) -> RelatedPlan:
        if plot is not None:
            require_matplotlib()
        request = RelatedRequest(
            models=piped_paths(models, null=null),
            picture=optional_file(plot),
            selection=selection,
            output=output,
            computing=computing,
            tracing=traced.telling(told),
        )
        return plan_related(request)

    return Work("related", display, plan, partial(_run, brief=not display.verbose), PRESENTERS)


def _run(plan: RelatedPlan, progress: Any, *, brief: bool) -> Iterator[Any]:
    """Yield what is found, of many models in brief, and the picture of it if one is wanted."""
    from rebasin_cli.commands.related.kin import KinPair
    from rebasin_cli.commands.related.kinship_plot import draw_kinship
    from rebasin_cli.commands.related.report import MANY, KinFamilies, PairOfMany
    from rebasin_cli.commands.related.run import Kinship, run_related

    many = brief and len(plan.problem.models) > MANY
    shorter = {KinPair: PairOfMany, Kinship: KinFamilies} if many else {}
    for outcome in run_related(plan, progress):
        yield shorter.get(type(outcome), _same)(outcome)
        if isinstance(outcome, Kinship) and plan.picture is not None:
            yield draw_kinship(outcome, plan.picture)


def _same(outcome: Any) -> Any:
    return outcome
