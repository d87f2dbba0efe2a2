"""Models in one frame: one of them folded, each of the others folded and moved next to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.files.provenance import is_folded
from rebasin_cli.folding.folded_models import Folded, check_tied, fold_model, measure_function
from rebasin_cli.folding.rotation_problem import ORTHOGONAL, RotationProblem
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import TensorSource

# What provenance says of all that comes of rotated models: it averages with folded ones only.
ROTATED_FACTS: Mapping[str, object] = {"folded": True, "symmetry": ORTHOGONAL}


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
    maps. tied, function: see `Folded`.
    """

    model: Path
    reference: Path
    spec: str
    classes: dict[str, int]
    cosine: Change
    null: float | None
    sweeps: int
    learned: LearnedMaps | None
    written: Written | None
    saved: Written | None
    seconds: float
    tied: float | None = None
    function: FunctionDifference | None = None


@dataclass(frozen=True)
class RotatedModels:
    """How models come into one frame.

    maps: of each model but the reference, by its number. found: what is to be told of it: of the
    reference if it was not folded before, then of each model.
    """

    problem: RotationProblem
    maps: Mapping[int, GroupMaps]
    found: tuple[Folded | Rotated, ...]

    def moved(self, sources: Sequence[TensorSource]) -> list[TensorSource]:
        """Return tensors of all models, their weights or a part beside them, in that frame."""
        return [self._moved(number, source) for number, source in enumerate(sources)]

    def _moved(self, number: int, source: TensorSource) -> TensorSource:
        folding = self.problem.folding
        if number in self.maps:
            moving = folding.moving.tensors
            return Carried(FoldedNorms(source, folding), moving, self.maps[number])
        return source if is_folded(self.problem.models[number]) else FoldedNorms(source, folding)


def rotate_models(
    problem: RotationProblem,
    sources: Sequence[TensorSource],
    progress: Progress,
    *,
    reference: int = 0,
) -> RotatedModels:
    """Return what brings models into one frame, by their weights; nothing is written.

    sources: the weights of each. reference: the number of the model that only folds. Raises
    PermutationError where a head that is tied is too far off, or a function would not stay.
    """
    model = problem.models[reference]
    found: list[Folded | Rotated] = []
    if not is_folded(model):
        found.append(fold_model(model, problem.folding, problem.check, problem.choice.name))
    maps = {}
    for number in range(len(problem.models)):
        if number != reference:
            pair = sources[reference], sources[number]
            maps[number], rotated = _rotate(problem, (reference, number), pair, progress)
            found.append(rotated)
    return RotatedModels(problem, maps, tuple(found))


def _rotate(
    problem: RotationProblem,
    numbers: tuple[int, int],
    sources: tuple[TensorSource, TensorSource],
    progress: Progress,
) -> tuple[GroupMaps, Rotated]:
    """Return the maps of a model next to a reference, and what is to be told of them."""
    began, folding = perf_counter(), problem.folding
    reference, model = (problem.models[number] for number in numbers)
    first, folded = (FoldedNorms(source, folding) for source in sources)
    tied = check_tied(folded, model)
    bound, classes = folding.moving, folding.classes
    found = match_maps(
        first, folded, bound, classes, max_memory=problem.machine.max_memory, progress=progress
    )
    progress("checking the function", 0, 0)
    moved = Carried(folded, bound.tensors, found.maps)
    function = measure_function(problem.check, model, moved, tied, model.path)
    return found.maps, Rotated(
        model=model.path,
        reference=reference.path,
        spec=problem.choice.name,
        classes=count_classes(classes),
        cosine=found.cosine,
        null=found.null,
        sweeps=found.sweeps,
        learned=None,
        written=None,
        saved=None,
        seconds=perf_counter() - began,
        tied=tied,
        function=function,
    )


def count_classes(classes: Mapping[str, str]) -> dict[str, int]:
    """Return how many groups have each class of maps, by its name."""
    return dict(sorted(Counter(name.partition(",")[0] for name in classes.values()).items()))
