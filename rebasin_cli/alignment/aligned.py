"""A model aligned to a reference by its weights, and the outcome of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Protocol

from rebasin_cli.alignment.function_check import FunctionCheck
from rebasin_cli.alignment.functions import FunctionDifference, check_function
from rebasin_cli.alignment.match import match_models
from rebasin_cli.alignment.unit_comparison import ModelPair, compare_units_of, detail_for
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.matching.problem.result import Matching, UnitComparison
from rebasin_cli.merging.overlap import EQUAL, Overlap
from rebasin_cli.options.display import Display
from rebasin_cli.options.machine import Machine
from rebasin_cli.options.search import Search
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec_choice.choice import Choice


@dataclass(frozen=True)
class Aligned:
    """A model that was moved into the reference's basin.

    untouched: tensors that the spec does not name. written, permutation: the files; None where
    nothing was written. alike: bundled specs beside the chosen one that allow the same
    permutations. comparison: the figures of the units, if they were asked for. function: how far
    its outputs are from those before, if the model was run. rotatable: whether the spec allows more
    than permutations. widened: sizes of groups before and after, of a model that was narrower.
    """

    model: Path
    reference: Path
    spec: str
    matching: Matching
    untouched: tuple[str, ...]
    seconds: float
    written: Written | None = None
    permutation: Written | None = None
    alike: tuple[str, ...] = ()
    comparison: UnitComparison | None = None
    function: FunctionDifference | None = None
    rotatable: bool = False
    widened: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class ShownSearch(Protocol):
    """What is asked of a search, and of what is shown of it."""

    @property
    def search(self) -> Search:
        """How permutations are searched for."""

    @property
    def display(self) -> Display:
        """How much is shown."""


def align_by_weights(
    models: ModelPair,
    choice: Choice,
    machine: Machine,
    request: ShownSearch,
    *,
    overlap: Overlap = EQUAL,
    check: FunctionCheck | None = None,
    progress: Progress = silent,
) -> Aligned:
    """Return what aligning a model to a reference finds; nothing is written.

    overlap: where the model's shapes are not the reference's. check: a network to run, to see that
    the function stays; None: nothing is run. Raises PermutationError where it does not stay.
    """
    began, (reference, model), display = perf_counter(), models, request.display
    found = match_models(
        reference,
        model,
        choice,
        machine,
        request.search,
        overlap=overlap,
        progress=progress,
        detail=detail_for(display),
    )
    moved = Permuted(model, choice.bound.tensors, found.permutations)
    function = check_function(check, model, moved, where=str(model.path))
    comparison = compare_units_of(models, choice, machine, display, found, overlap=overlap)
    outcome = aligned_outcome(models, choice, found, seconds=perf_counter() - began)
    return replace(outcome, comparison=comparison, function=function)


def aligned_outcome(
    models: ModelPair, choice: Choice, found: Matching, *, seconds: float
) -> Aligned:
    """Return the outcome of a matching under a spec, before anything is written or compared."""
    reference, model = models
    return Aligned(
        model=model.path,
        reference=reference.path,
        spec=choice.name,
        matching=found,
        untouched=choice.bound.untouched,
        seconds=seconds,
        alike=choice.alike,
    )
