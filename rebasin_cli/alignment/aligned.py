"""What aligning a model to a reference found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.matching.problem.result import Matching, UnitComparison


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
    untouched: int
    written: Written | None
    permutation: Written | None
    seconds: float
    alike: tuple[str, ...] = ()
    comparison: UnitComparison | None = None
    function: FunctionDifference | None = None
    rotatable: bool = False
    widened: Mapping[str, tuple[int, int]] = field(default_factory=dict)
