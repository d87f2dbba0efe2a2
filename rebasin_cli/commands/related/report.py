"""What models are to each other, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from rebasin_cli.commands.related.convex_means import Merge
from rebasin_cli.commands.related.kin import KinPair
from rebasin_cli.commands.related.run import Kinship
from rebasin_cli.commands.related.sentences import (
    basis_lines,
    merge_basis,
    merge_sentence,
    verdict_sentence,
)
from rebasin_cli.pictures.report import DRAWING
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.tables import number_columns, render, table
from rebasin_cli.wording import count

MANY = 6  # models up to which each pair has its sentence: 15 of them
TWO = 2  # models, whose one score its own line says


@dataclass(frozen=True)
class PairOfMany:
    """A pair among so many that it is told to programs alone."""

    pair: KinPair


@dataclass(frozen=True)
class ManyModels:
    """Many models, to be told of as families."""

    kinship: Kinship


def _pair_fields(pair: KinPair) -> dict[str, Any]:
    near, stored, marks = pair.nearness, pair.stored, pair.marks
    return {
        "a": str(pair.a),
        "b": str(pair.b),
        "relation": pair.kin.value,
        "related": pair.kin.related,
        "verdict": verdict_sentence(pair),
        "score": pair.excess,
        "cosine": near.cosine if near else None,
        "null": near.null if near else None,
        "kept": near.kept if near else None,
        "moved": pair.moved,
        "distance": stored.distance if stored else 0.0,
        "different": list(stored.different) if stored else [],
        "zeros": [each.zeros for each in marks] if marks else None,
        "on_grid": [each.on_grid for each in marks] if marks else None,
        "matrices": [
            {"name": m.name, "cosine": m.cosine, "null": m.null, "score": m.excess}
            for m in (near.matrices if near else ())
        ],
        "seconds": pair.seconds,
    }


def _merge_fields(merge: Merge[Path]) -> dict[str, Any]:
    return {
        "merge": str(merge.model),
        "parents": [str(path) for path in merge.parents],
        "shares": list(merge.shares),
        "base": str(merge.base) if merge.base else None,
        "kept": merge.kept,
        "left": merge.left,
        "verdict": merge_sentence(merge),
    }


def kinship_text(outcome: Kinship) -> str:
    """Return the matrix of scores of three models or more; the line of a pair says its own."""
    if len(outcome.models) <= TWO:
        return ""
    numbers = [str(k) for k, _ in enumerate(outcome.models, 1)]
    shown = table(Column("", no_wrap=True), *number_columns(*numbers, no_wrap=True))
    for row, path in enumerate(outcome.models):
        shown.add_row(escape(f"{row + 1} {path}"), *_scores(outcome, row))
    return render(shown).rstrip("\n")


def _scores(outcome: Kinship, row: int) -> list[str]:
    columns = range(len(outcome.models))
    return ["" if row == c else f"{outcome.pair(row, c).excess:.2f}" for c in columns]


def _details(pair: KinPair) -> Sequence[Table]:
    if pair.nearness is None:
        return ()
    shown = table(Column("matrix", no_wrap=True), *number_columns("cosine", "null", "score"))
    for m in pair.nearness.matrices:
        shown.add_row(escape(m.name), f"{m.cosine:.3f}", f"{m.null:.3f}", f"{m.excess:.3f}")
    return [shown]


def families_of(kinship: Kinship) -> list[list[int]]:
    """Return the models in families, the largest first: who is related to one of it is of it."""
    families = [[number] for number in range(len(kinship.models))]
    for number in range(len(kinship.models)):
        mine = [
            family
            for family in families
            if number in family or any(kinship.pair(number, b).kin.related for b in family)
        ]
        joined = sorted(member for family in mine for member in family)
        families = [*(family for family in families if family not in mine), joined]
    return sorted(families, key=lambda family: (-len(family), family))


def _families_text(outcome: ManyModels) -> str:
    """Return a table with a row for each model: its family, and who is nearest to it."""
    kinship, paths = outcome.kinship, ("model", "nearest")
    model, nearest = (Column(heading, overflow="fold") for heading in paths)
    (score,) = number_columns("score", no_wrap=True)
    shown = table(Column("family", no_wrap=True), model, nearest, "relation", score)
    for place, family in enumerate(families_of(kinship), 1):
        for number in family:
            other = _nearest(kinship, number)
            pair = kinship.pair(number, other)
            names = (escape(str(kinship.models[each])) for each in (number, other))
            shown.add_row(
                str(place) if len(family) > 1 else "alone",
                *names,
                pair.kin.value,
                f"{pair.excess:.2f}",
            )
    return render(shown).rstrip("\n")


def _families_summary(outcome: ManyModels) -> str:
    """Return how many pairs are related, and how to see a sentence for each."""
    pairs = outcome.kinship.pairs
    related = sum(pair.kin.related for pair in pairs)
    return f"{related} of {count(len(pairs), 'pair')} are related: -v has a sentence for each"


def _nearest(kinship: Kinship, number: int) -> int:
    """Return the model that is most like another: a relative, if it has any."""
    others = [other for other in range(len(kinship.models)) if other != number]

    def nearness(other: int) -> tuple[bool, float]:
        pair = kinship.pair(number, other)
        return pair.kin.related, pair.excess

    return max(others, key=nearness)


PRESENTERS: Presenters = {
    KinPair: Presenter(
        fields=_pair_fields,
        text=verdict_sentence,
        summary=lambda pair: "\n".join(f"  {line}" for line in basis_lines(pair)),
        details=_details,
    ),
    Merge: Presenter(
        fields=_merge_fields,
        text=merge_sentence,
        summary=merge_basis,
    ),
    Kinship: Presenter(fields=lambda outcome: None, text=kinship_text),
    PairOfMany: Presenter(fields=lambda each: _pair_fields(each.pair), text=lambda each: ""),
    ManyModels: Presenter(
        fields=lambda outcome: None,
        text=_families_text,
        summary=_families_summary,
    ),
    **DRAWING,
}
