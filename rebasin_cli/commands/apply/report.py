"""What applying a permutation did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.alignment.report import agreement_fields, agreement_text
from rebasin_cli.commands.apply.plan import Applied
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import count


def applied_text(outcome: Applied) -> str:
    """Return what was applied to a model, and whether its function stayed."""
    how = "the inverse of " if outcome.inverted else ""
    text = (
        f"{outcome.model} {outcome.word} by {how}{outcome.permutation}: "
        f"{outcome.moved} of {count(outcome.groups, 'group')} moved"
    )
    return f"{text}\n  {agreement_text(outcome.function)}" if outcome.function else text


def _applied_fields(outcome: Applied) -> dict[str, Any]:
    return {
        "model": str(outcome.model),
        "permutation": str(outcome.permutation),
        "inverse": outcome.inverted,
        "groups": outcome.groups,
        "moved": outcome.moved,
        **agreement_fields(outcome.function),
    }


PRESENTERS: Presenters = {
    Applied: Presenter(
        fields=_applied_fields, summary=applied_text, written=lambda outcome: outcome.written
    )
}
