"""What became of one point, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

from rebasin_cli.alignment.report import PERMUTING
from rebasin_cli.commands.lerp.plan import Interpolated, LineDrawn
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import count


def interpolated_text(outcome: Interpolated) -> str:
    """Return the path of a point, or if its file was removed what the command said of it."""
    if outcome.written:
        return str(outcome.written.path)
    value = outcome.value
    return f"{outcome.alpha:.6f}\t{value if isinstance(value, str) else json.dumps(value)}"


def _interpolated_fields(outcome: Interpolated) -> dict[str, Any]:
    return {"alpha": outcome.alpha, **({"exec": outcome.value} if outcome.executed else {})}


def _drawn_summary(outcome: LineDrawn) -> str:
    """Return between what the points lie, and whether anything says that these go together."""
    plan = outcome.plan
    ends = " and ".join(str(model.path) for model in (plan.models[0], plan.models[-1]))
    if plan.request.align:
        how = ""
    elif outcome.basin is not None:
        how = ", in one basin by their provenance"
    else:
        how = " as they are: --align, or rebasin align before, brings separate runs into one order"
    return f"{count(len(plan.points), 'point')} between {ends}{how} ({outcome.seconds:.1f} s)"


PRESENTERS: Presenters = {
    **PERMUTING,
    **ROTATING,
    Interpolated: Presenter(
        fields=_interpolated_fields,
        text=interpolated_text,
        written=lambda outcome: outcome.written,
    ),
    LineDrawn: Presenter(
        fields=lambda outcome: None, text=lambda outcome: "", summary=_drawn_summary
    ),
}
