"""Which way to align was chosen, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from rebasin_cli.alignment.report import PERMUTING
from rebasin_cli.commands.align.auto.report import NAMES
from rebasin_cli.commands.align.select.candidate_pair import TriedCandidate
from rebasin_cli.commands.align.select.candidates import DEFAULT
from rebasin_cli.commands.align.select.run import Selected
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.presentation.presenter import CHOICE, Presenter, Presenters
from rebasin_cli.presentation.tables import number_columns, table
from rebasin_cli.wording import count

SAME_BATCHES = "  judged on what was also matched on: the data has no other batches"


def _text(outcome: Selected) -> str:
    best, tried = outcome.best, count(len(outcome.judged), "candidate")
    others = [one for one in outcome.judged if one.candidate.name == DEFAULT and one is not best]
    than = [f"{one.loss:.4g} with {_name(one, outcome)}" for one in others if one.loss is not None]
    losses = ", ".join([f"the loss of the midpoint is {best.loss:.4g}", *than])
    text = (
        f"{outcome.model}: {_name(best, outcome)} chosen among {tried}: {losses} "
        f"({outcome.seconds:.1f} s)"
    )
    return text if outcome.apart else f"{text}\n{SAME_BATCHES}"


def _name(judged: TriedCandidate, outcome: Selected) -> str:
    """Return what a candidate is called: with its class of maps, if several were tried."""
    several = len({one.candidate.symmetry for one in outcome.judged}) > 1
    name, kind = judged.candidate.name, judged.candidate.symmetry
    return f"{NAMES[kind]}, {name}" if several else name


def _details(outcome: Selected) -> Sequence[RenderableType]:
    shown = table("candidate", *number_columns("cosine", "midpoint's loss", "seconds"))
    for one in outcome.judged:
        cosine = "" if one.cosine is None else f"{one.cosine:.4f}"
        loss = "failed" if one.loss is None else f"{one.loss:.4f}"
        shown.add_row(escape(_name(one, outcome)), cosine, loss, f"{one.seconds:.1f}")
    failed = (one for one in outcome.judged if one.failure is not None)
    return (shown, *(escape(f"  {_name(one, outcome)}: {one.failure}") for one in failed))


def _fields(outcome: Selected) -> dict[str, Any]:
    return {
        "model": str(outcome.model),
        "symmetry": outcome.best.candidate.symmetry,
        "name": outcome.best.candidate.name,
        "loss": outcome.best.loss,
        "loss_against": "targets" if outcome.by_targets else "answers",
        "batches": outcome.batches,
        "held_out": outcome.apart,
        "candidates": [_candidate_fields(one) for one in outcome.judged],
        "seconds": outcome.seconds,
    }


def _candidate_fields(judged: TriedCandidate) -> dict[str, Any]:
    found, failure = judged.found, judged.failure
    return {
        "symmetry": judged.candidate.symmetry,
        "name": judged.candidate.name,
        "method": judged.candidate.search.method,
        "objective": found.objective.after if isinstance(found, Matching) else None,
        "cosine": judged.cosine,
        "loss": judged.loss,
        "error": str(failure) if failure else None,
        "seconds": judged.seconds,
    }


CHOSEN: Presenter[Selected] = Presenter(
    fields=_fields, text=lambda outcome: "", summary=_text, details=_details, event=CHOICE
)
PRESENTERS: Presenters = {**PERMUTING, **ROTATING, Selected: CHOSEN}
