"""What models are to each other, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from rebasin_cli.commands.related.convex_means import Merge
from rebasin_cli.commands.related.families import (
    Families,
    PairOfMany,
    families_summary,
    families_text,
)
from rebasin_cli.commands.related.kin import KinPair
from rebasin_cli.commands.related.run import Kinship
from rebasin_cli.commands.related.sentences import basis, merge_basis, merge_sentence, verdict
from rebasin_cli.pictures.report import DRAWING
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.tables import number_columns, render, table

TWO = 2  # models, whose one score its own line says


def _pair_fields(pair: KinPair) -> dict[str, Any]:
    near, stored, marks = pair.nearness, pair.stored, pair.marks
    return {
        "a": str(pair.a),
        "b": str(pair.b),
        "relation": pair.kin.value,
        "related": pair.kin.related,
        "verdict": verdict(pair),
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


PRESENTERS: Presenters = {
    KinPair: Presenter(
        fields=_pair_fields,
        text=verdict,
        summary=lambda pair: "\n".join(f"  {line}" for line in basis(pair)),
        details=_details,
    ),
    Merge: Presenter(
        fields=_merge_fields,
        text=merge_sentence,
        summary=merge_basis,
    ),
    Kinship: Presenter(fields=lambda outcome: None, text=kinship_text),
    PairOfMany: Presenter(fields=lambda each: _pair_fields(each.pair), text=lambda each: ""),
    Families: Presenter(
        fields=lambda outcome: None,
        text=families_text,
        summary=families_summary,
    ),
    **DRAWING,
}
