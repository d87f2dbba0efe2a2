"""What became of a model that was rotated next to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.folding.folded_models import measure_function
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import GroupMaps
from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True)
class LearnedMaps:
    """The maps of the least held-out loss. losses: by step, from that of the matching, step 0."""

    maps: GroupMaps
    losses: dict[int, float]

    @property
    def step(self) -> int:
        return min(self.losses, key=self.losses.__getitem__)


@dataclass(frozen=True)
class Rotated:
    """A model brought next to a folded reference by the maps that its spec allows.

    classes: by class of maps, how many groups have it. cosine: of the folded models, before and
    after matching. null: that of unrelated weights, matched alike, if it was looked for. learned:
    what learning made of the maps. written: None if only for the moment. saved: the file of the
    maps. seconds: where models are matched together, of each a like share. tied, function, untied:
    see `Folded`.
    """

    model: Path
    reference: Path
    spec: str
    classes: dict[str, int]
    cosine: Change
    null: float | None
    sweeps: int
    tied: float | None
    function: FunctionDifference | None
    untied: tuple[str, ...]
    seconds: float
    learned: LearnedMaps | None = None
    written: Written | None = None
    saved: Written | None = None


def rotated_outcome(
    problem: RotationProblem,
    model: Checkpoint,
    found: MapMatching,
    moved: TensorSource,
    tied: float | None,
) -> Rotated:
    """Return the outcome for a model that was aligned to the first; its function is measured.

    moved: the model, folded and mapped. Raises PermutationError if its function does not stay.
    """
    return Rotated(
        model=model.path,
        reference=problem.models[0].path,
        spec=problem.choice.name,
        classes=count_classes(problem.folding.classes),
        cosine=found.cosine,
        null=found.null,
        sweeps=found.sweeps,
        tied=tied,
        function=measure_function(problem.check, model, moved, tied, model.path),
        untied=tuple(model.apart),
        seconds=0.0,
    )


def count_classes(classes: Mapping[str, str]) -> dict[str, int]:
    """Return how many groups have each class of maps, by its name."""
    return dict(
        sorted(Counter(name.removesuffix("-keeping-mean") for name in classes.values()).items())
    )
