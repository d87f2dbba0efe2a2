"""What applying a permutation did, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rebasin_cli.alignment.report import agreement_fields, agreement_text
from rebasin_cli.commands.apply.belonging_plan import Belonging
from rebasin_cli.commands.apply.plan import Applied
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import count, listing

SHOWN = 3  # names of tensors that are left


def applied_text(outcome: Applied) -> str:
    """Return what was applied to a model, and whether its function stayed."""
    how = "the inverse of " if outcome.inverted else ""
    what = f"{outcome.model} {outcome.word} by {how}{outcome.permutation}"
    if outcome.belonging:
        return "\n  ".join([f"{what}: {_moved_text(outcome.belonging)}", *_left(outcome.belonging)])
    text = f"{what}: {outcome.moved} of {count(outcome.groups, 'group')} moved"
    return f"{text}\n  {agreement_text(outcome.function)}" if outcome.function else text


def _moved_text(belonging: Belonging) -> str:
    return (
        f"{belonging.moved} of {count(belonging.tensors, 'tensor')} of the {belonging.kind} moved"
    )


def _left(belonging: Belonging) -> Iterator[str]:
    """Yield a line for what was left of other networks, and for what was left out."""
    for why, names in (
        ("of other networks, and as before", belonging.foreign),
        ("not known of the new order, and left out", belonging.lost),
    ):
        if names:
            yield f"{why}: {count(len(names), 'tensor')}: {listing(names, most=SHOWN)}"


def _belonging_fields(belonging: Belonging | None) -> dict[str, Any]:
    if belonging is None:
        return {}
    return {
        "kind": belonging.kind,
        "tensors": belonging.tensors,
        "tensors_moved": belonging.moved,
        "kept": list(belonging.kept),
        "other_networks": list(belonging.foreign),
        "left_out": list(belonging.lost),
    }


def _applied_fields(outcome: Applied) -> dict[str, Any]:
    return {
        "model": str(outcome.model),
        "permutation": str(outcome.permutation),
        "inverse": outcome.inverted,
        "groups": outcome.groups,
        "moved": outcome.moved,
        **agreement_fields(outcome.function),
        **_belonging_fields(outcome.belonging),
    }


PRESENTERS: Presenters = {
    Applied: Presenter(
        fields=_applied_fields, summary=applied_text, written=lambda outcome: outcome.written
    )
}
