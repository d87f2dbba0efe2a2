"""What became of one point, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

from rebasin_cli.alignment.report import PERMUTING
from rebasin_cli.commands.lerp.plan import Interpolated
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.presentation.presenter import Presenter, Presenters


def interpolated_text(outcome: Interpolated) -> str:
    """Return the path of a point, or if its file was removed what the command said of it."""
    if outcome.written:
        return str(outcome.written.path)
    value = outcome.value
    return f"{outcome.alpha:.6f}\t{value if isinstance(value, str) else json.dumps(value)}"


def _interpolated_fields(outcome: Interpolated) -> dict[str, Any]:
    return {"alpha": outcome.alpha, **({"exec": outcome.value} if outcome.executed else {})}


PRESENTERS: Presenters = {
    **PERMUTING,
    **ROTATING,
    Interpolated: Presenter(
        fields=_interpolated_fields,
        text=interpolated_text,
        written=lambda outcome: outcome.written,
    ),
}
