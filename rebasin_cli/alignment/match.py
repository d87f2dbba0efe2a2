"""Two models brought into one order: the matching under a spec, on the machine as planned."""

from __future__ import annotations

from collections.abc import Mapping

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.matching.diagnostics.relation import Detail
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.merging.overlap import EQUAL, CommonPart, Overlap
from rebasin_cli.options.machine import Machine
from rebasin_cli.options.search import Search
from rebasin_cli.permutation import Permutation
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec_choice.choice import Choice


def match_models(
    reference: Checkpoint,
    model: Checkpoint,
    choice: Choice,
    machine: Machine,
    search: Search,
    *,
    overlap: Overlap = EQUAL,
    initial: Mapping[str, Permutation] | None = None,
    progress: Progress = silent,
    detail: Detail | None = None,
) -> Matching:
    """Return the matching of one model to a reference, under the plan's spec and means.

    overlap: where the model's shapes are not the reference's.
    """
    return match_weights(
        reference,
        CommonPart(model, overlap),
        choice.bound,
        settings=machine.settings(search),
        movable=choice.movable,
        initial=initial,
        labels=(str(reference.path), str(model.path)),
        progress=progress,
        detail=detail,
    )
