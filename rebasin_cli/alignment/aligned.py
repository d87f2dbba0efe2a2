"""A model aligned to a reference: what that found, and how it is found from weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """A model that was moved into the reference's basin; written: None if only for the moment.

    alike: bundled specs beside the chosen one that allow the same permutations. comparison: what
    the units say one by one, if that was asked for. function: how far its outputs are from those
    before, if the model was run. rotatable: whether the spec allows more than permutations.
    widened: sizes of groups before and after, of a model that was narrower.
    """

    model: Path
    reference: Path
    spec: str
    matching: Matching
    untouched: tuple[str, ...]
    written: Written | None
    permutation: Written | None
    seconds: float
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

    overlap: where the model's shapes are not the reference's. check: the model to see with that its
    function stays; None: that is not looked at. Raises PermutationError where it does not.
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
    return Aligned(
        model=model.path,
        reference=reference.path,
        spec=choice.name,
        matching=found,
        untouched=choice.bound.untouched,
        written=None,
        permutation=None,
        seconds=perf_counter() - began,
        alike=choice.alike,
        comparison=comparison,
        function=function,
    )
