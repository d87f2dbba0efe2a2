"""What was observed of units, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.alignment.report import listed_names
from rebasin_cli.commands.statistics.plan import Observed
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import count


def statistics_fields(outcome: Observed) -> dict[str, Any]:
    """Return what a result event says besides the file."""
    return {
        "models": [str(path) for path in outcome.models],
        "spec": outcome.spec,
        "point": outcome.moment,
        "samples": outcome.samples,
        "groups": [{"name": name, "size": size} for name, size in outcome.groups.items()],
        "unseen": list(outcome.unseen),
        "seconds": outcome.seconds,
    }


def statistics_summary(outcome: Observed) -> str:
    """Return what a person wants to know."""
    of = " and ".join(map(str, outcome.models))
    groups = count(len(outcome.groups), "group")
    lines = [
        f"{of}: {groups} seen {outcome.moment} the activation, "
        f"up to {outcome.samples:,} samples a unit, {outcome.seconds:.1f} s",
        f"  spec {outcome.spec}",
    ]
    if outcome.unseen:
        lines.append(f"  no activations tell of {listed_names(outcome.unseen)}")
    return "\n".join(lines)


PRESENTERS: Presenters = {
    Observed: Presenter(
        fields=statistics_fields,
        summary=statistics_summary,
        written=lambda outcome: outcome.written,
    )
}
