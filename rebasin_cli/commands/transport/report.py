"""What carrying a difference did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.commands.transport.request import DELTA
from rebasin_cli.commands.transport.run import Carriage
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.written import card_lines
from rebasin_cli.wording import count, listing


def carriage_text(outcome: Carriage) -> str:
    """Return what was carried where, and how well the maps fit."""
    form = "alone" if outcome.form == DELTA else f"added to {outcome.target}"
    lines = [
        f"{outcome.tuned} - {outcome.origin}, times {outcome.scale:g}, {form}: "
        f"{count(outcome.carried, 'tensor')} by the map {outcome.map}, {outcome.seconds:.1f} s",
        *(f"  {line}" for line in outcome.lines),
    ]
    if outcome.replaced:
        lines.append(f"  those of {outcome.tuned}, whole: {listing(outcome.replaced)}")
    return "\n".join([*lines, *card_lines(outcome.written)])


def _carriage_fields(outcome: Carriage) -> dict[str, Any]:
    return {
        "tuned": str(outcome.tuned),
        "from": str(outcome.origin),
        "to": str(outcome.target),
        "map": outcome.map,
        "scale": outcome.scale,
        "as": outcome.form,
        "carried": outcome.carried,
        "replaced": list(outcome.replaced),
        **outcome.fields,
        "seconds": outcome.seconds,
    }


PRESENTERS: Presenters = {
    Carriage: Presenter(
        fields=_carriage_fields, summary=carriage_text, written=lambda outcome: outcome.written
    )
}
