"""What carrying a difference did, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebasin_cli.commands.transport.command import ADAPTER, DELTA
from rebasin_cli.commands.transport.run import CarriedDifference
from rebasin_cli.commands.transport.scored_models import ScoredModel
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.written import card_lines
from rebasin_cli.wording import count, listing

LABELS = {
    "target": "BASE_B",
    "naive": "BASE_B + (TUNED - BASE_A) as it is",
    "transported": "BASE_B + what was carried",
    "tuned": "TUNED",
}
JUDGED_ON = {
    True: "the batches that are held out from maps and masks, every second one",
    False: "the batches that maps and masks are of: yield two, and every second one is held out",
}


def carriage_text(outcome: CarriedDifference) -> str:
    """Return what was carried where, and how well the maps fit."""
    if outcome.form == ADAPTER:
        head = f"{outcome.tuned}, an adapter of {outcome.origin}, now one of {outcome.target}"
        said = f"{head}: {count(outcome.carried, 'tensor')}, {outcome.seconds:.1f} s"
        return "\n".join([said, *(f"  {line}" for line in outcome.lines)])
    form = "alone" if outcome.form == DELTA else f"added to {outcome.target}"
    lines = [
        f"{outcome.tuned} - {outcome.origin}, times {outcome.scale:g}, {form}: "
        f"{count(outcome.carried, 'tensor')} by the map {outcome.map}, {outcome.seconds:.1f} s",
        *(f"  {line}" for line in outcome.lines),
    ]
    if outcome.replaced:
        lines.append(f"  those of {outcome.tuned}, whole: {listing(outcome.replaced)}")
    lines += score_lines(outcome.scores)
    if outcome.apart is not None:
        lines.append(f"  scores are on {JUDGED_ON[outcome.apart]}")
    return "\n".join([*lines, *card_lines(outcome.written)])


def score_lines(scores: Sequence[ScoredModel]) -> list[str]:
    """Return a line for each model that was judged, and whether the difference was worth it."""
    if not scores:
        return []
    names = [_label(one) for one in scores]
    widest = max(map(len, names))
    figures = (", ".join(f"{k} {v:.4g}" for k, v in one.scores.items()) for one in scores)
    lines = [f"  {name:<{widest}}  {said}" for name, said in zip(names, figures, strict=True)]
    loss = {one.name: one.scores["loss"] for one in scores if "loss" in one.scores}
    if loss and not loss["transported"] < loss["target"]:
        lines.append("  not worth it here: BASE_B by itself loses no more")
    elif loss and not loss["transported"] < loss.get("naive", float("inf")):
        lines.append("  the difference as it is, without any map, does no worse here")
    return lines


def _label(one: ScoredModel) -> str:
    times = "" if one.scale is None else f", times {one.scale:g}"
    return f"{LABELS[one.name]}{times}"


def _carriage_fields(outcome: CarriedDifference) -> dict[str, Any]:
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
        "scores": [{"model": one.name, "scale": one.scale, **one.scores} for one in outcome.scores],
        **({} if outcome.apart is None else {"scores_held_out": outcome.apart}),
        "seconds": outcome.seconds,
    }


PRESENTERS: Presenters = {
    CarriedDifference: Presenter(
        fields=_carriage_fields, summary=carriage_text, written=lambda outcome: outcome.written
    )
}
