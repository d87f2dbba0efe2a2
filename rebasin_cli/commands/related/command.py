"""The command `rebasin related`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.display import Display
from rebasin_cli.options.model_paths import models_argument, null_option, with_piped
from rebasin_cli.options.output import Output
from rebasin_cli.options.parameters import flag, options_of, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.options.values import optional_file
from rebasin_cli.presentation.work import Work

if TYPE_CHECKING:
    from rebasin_cli.commands.related.plan import RelatedPlan


@dataclass(frozen=True)
class RelatedRequest:
    """Which models are compared. picture: where it goes, if anywhere."""

    models: Sequence[Path] = models_argument("A B...")
    picture: Path | None = flag(
        "--plot",
        kind=str | None,
        parse=optional_file,
        rich_help_panel="Files",
        metavar="FILE",
        help="Also draw the scores of all pairs: .png, .svg or .html.",
    )
    null: bool = null_option()
    selection: Selection = options_of(Selection, *ALIGNING)
    output: Output = options_of(Output, "force")
    computing: Computing = options_of(Computing, *MEANS)
    display: Display = options_of(Display)
    tracing: Tracing = options_of(Tracing)
    search: Search = Search()


@with_options("models", "picture", "null", "force", "verbose")
def related(request: RelatedRequest) -> Work:
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
    from rebasin_cli.commands.related.report import PRESENTERS

    run = partial(_run, brief=not request.display.verbose)
    return Work("related", request.display, tracing_plan(_plan, request), run, PRESENTERS)


def _plan(request: RelatedRequest) -> RelatedPlan:
    from rebasin_cli.commands.related.plan import plan_related
    from rebasin_cli.pictures.drawing import require_matplotlib

    if request.picture is not None:
        require_matplotlib()
    return plan_related(with_piped(request))


def _run(plan: RelatedPlan, progress: Any, *, brief: bool) -> Iterator[Any]:
    """Yield what is found, of many models in brief, and the picture of it if one is wanted."""
    from rebasin_cli.commands.related.kin import KinPair
    from rebasin_cli.commands.related.kinship_plot import draw_kinship
    from rebasin_cli.commands.related.report import MANY, ManyModels, PairOfMany
    from rebasin_cli.commands.related.run import Kinship, run_related

    many = brief and len(plan.problem.models) > MANY
    shorter = {KinPair: PairOfMany, Kinship: ManyModels} if many else {}
    for outcome in run_related(plan, progress):
        yield shorter.get(type(outcome), _same)(outcome)
        if isinstance(outcome, Kinship) and plan.picture is not None:
            yield draw_kinship(outcome, plan.picture)


def _same(outcome: Any) -> Any:
    return outcome
