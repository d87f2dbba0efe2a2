"""The classes of maps that models may be aligned by, and who plans, does and reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rebasin_cli.commands.align.auto import report as auto_report
from rebasin_cli.commands.align.auto.plan import plan_auto
from rebasin_cli.commands.align.auto.run import run_auto
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.orthogonal.plan import plan_orthogonal
from rebasin_cli.commands.align.plan import plan_align
from rebasin_cli.commands.align.report import PRESENTERS
from rebasin_cli.commands.align.resumed_models import run_permuted, run_rotated
from rebasin_cli.commands.align.select import report as select_report
from rebasin_cli.commands.align.select.plan import plan_select
from rebasin_cli.commands.align.select.run import run_select
from rebasin_cli.errors import UsageError, look_up
from rebasin_cli.execution.workers import LOCAL
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.folding.settled_heads import check_tie
from rebasin_cli.presentation.presenter import Presenters
from rebasin_cli.progress import Progress
from rebasin_cli.spec.language.model import PERMUTATION


@dataclass(frozen=True)
class AlignmentKind:
    """How models are aligned by maps of one kind: parts of a `Work`."""

    plan: Callable[[AlignRequest], Any]
    run: Callable[[Any, Progress], Iterator[Any]]
    presenters: Presenters


SYMMETRIES: Mapping[str, AlignmentKind] = {
    PERMUTATION: AlignmentKind(plan_align, run_permuted, PRESENTERS),
    "orthogonal": AlignmentKind(plan_orthogonal, run_rotated, ROTATING),
    "auto": AlignmentKind(plan_auto, run_auto, auto_report.PRESENTERS),
}


def kind_of(request: AlignRequest) -> AlignmentKind:
    """Return how models are aligned: by the maps of which symmetry, or in the best of many ways.

    Raises UsageError for an unknown symmetry, and for a way with tied heads where they stay tied:
    what is compared with permutations has the same tensors. Only permutations are spread.
    """
    symmetry, select = request.symmetry, request.select is not None
    kind = look_up("symmetry", symmetry, SYMMETRIES)
    if request.executor != LOCAL and (select or symmetry != PERMUTATION):
        raise UsageError(
            f"--executor {request.executor} aligns by permutations that weights tell",
            hint="leave out --select" if select else "--symmetry permutation",
        )
    check_tie(request.tie, folds=symmetry == ORTHOGONAL and not select)
    return AlignmentKind(plan_select, run_select, select_report.PRESENTERS) if select else kind
