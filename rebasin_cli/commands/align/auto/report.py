"""What was chosen between permutations and orthogonal maps, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from rebasin_cli.alignment.report import PERMUTING
from rebasin_cli.commands.align.auto.run import ChosenSymmetry
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.presentation.presenter import CHOICE, Presenter, Presenters
from rebasin_cli.presentation.tables import number_columns, table
from rebasin_cli.spec.language.model import PERMUTATION

NAMES = {PERMUTATION: "permutations", ORTHOGONAL: "orthogonal maps"}


def _text(outcome: ChosenSymmetry) -> str:
    name = NAMES[outcome.symmetry]
    if outcome.obstacle:
        return f"{name}: {outcome.obstacle}"
    figures = outcome.losses or {key: s.excess for key, s in outcome.standings.items()}
    if not figures:
        return ""
    ((other, theirs),) = (item for item in figures.items() if item[0] != outcome.symmetry)
    mine = figures[outcome.symmetry]
    reason = (
        f"the loss of the midpoint is {mine:.4g} with them, {theirs:.4g} with {NAMES[other]}"
        if outcome.losses
        else f"their cosine is {mine:.4f} above that of unrelated weights matched alike, that of "
        f"{NAMES[other]} {theirs:.4f}"
    )
    return f"{name} chosen: {reason} ({outcome.seconds:.1f} s)"


def _details(outcome: ChosenSymmetry) -> Sequence[RenderableType]:
    if not outcome.standings:
        return ()
    shown = table("matched by", *number_columns("cosine", "unrelated weights", "excess"))
    for key, standing in outcome.standings.items():
        figures = (standing.cosine, standing.null, standing.excess)
        shown.add_row(NAMES[key], *(f"{figure:.4f}" for figure in figures))
    return (shown,)


def _fields(outcome: ChosenSymmetry) -> dict[str, Any]:
    return {
        "symmetry": outcome.symmetry,
        "obstacle": outcome.obstacle or None,
        **{
            key: {"cosine": s.cosine, "null": s.null, "excess": s.excess}
            for key, s in outcome.standings.items()
        },
        **{key: {"loss": loss} for key, loss in outcome.losses.items()},
        "seconds": outcome.seconds,
    }


CHOSEN: Presenter[ChosenSymmetry] = Presenter(
    fields=_fields, text=lambda outcome: "", summary=_text, details=_details, event=CHOICE
)
PRESENTERS: Presenters = {
    **PERMUTING,
    **ROTATING,
    ChosenSymmetry: CHOSEN,
}
