"""Models in one frame: one of them folded, each of the others folded and moved next to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.files.provenance import is_folded
from rebasin_cli.folding.folded_models import Folded, check_tied, fold_model
from rebasin_cli.folding.rotated_outcome import Rotated, rotated_outcome
from rebasin_cli.folding.rotation_data import measure_streams
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.folding.stream_moments import StreamMoments
from rebasin_cli.network.network import UserCode
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.progress import Progress, with_name
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True)
class RotationFrame:
    """Folded models, and the number of the one that the others are aligned to.

    moments: what their streams do on data; None: they are matched by weights alone.
    """

    problem: RotationProblem
    folded: Sequence[FoldedNorms]
    reference: int
    moments: StreamMoments | None

    @property
    def others(self) -> list[int]:
        """The numbers of the models that are moved."""
        return [number for number in range(len(self.folded)) if number != self.reference]


# Finds the maps of each model but the reference, by its number.
FrameMatching = Callable[[RotationFrame, Progress], Mapping[int, MapMatching]]


def match_star(frame: RotationFrame, progress: Progress) -> dict[int, MapMatching]:
    """Return the maps that bring each model next to the reference."""
    plan, reference, moments = frame.problem.folding, frame.reference, frame.moments
    return {
        number: match_maps(
            frame.folded[reference],
            frame.folded[number],
            plan.moving,
            plan.classes,
            moments=moments.between(reference, number) if moments else None,
            settings=frame.problem.settings,
            progress=with_name(progress, str(frame.problem.models[number].path)),
        )
        for number in frame.others
    }


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
        return [self.moved_one(number, source) for number, source in enumerate(sources)]

    def moved_one(self, number: int, source: TensorSource) -> TensorSource:
        """Return tensors of one model, by its number."""
        folding = self.problem.folding
        if number in self.maps:
            moving = folding.moving.tensors
            return Carried(FoldedNorms(source, folding), moving, self.maps[number])
        return (
            source
            if is_settled_reference(self.problem.models[number])
            else FoldedNorms(source, folding)
        )


def rotate_models(
    problem: RotationProblem,
    sources: Sequence[TensorSource],
    progress: Progress,
    *,
    reference: int = 0,
    matching: FrameMatching = match_star,
    code: UserCode | None = None,
) -> RotatedModels:
    """Return what brings models into one frame; nothing is written.

    sources: the weights of each. reference: the number of the model that only folds. code: what
    they are run by and on; None: by weights alone. Raises PermutationError where a head that is
    tied is too far off, or a function would not stay.
    """
    model, folding = problem.models[reference], problem.folding
    found: list[Folded | Rotated] = []
    if not is_settled_reference(model):
        found.append(fold_model(model, folding, problem.check, problem.choice.name))
    folded = [FoldedNorms(source, folding) for source in sources]
    tied = [check_tied(each, one) for each, one in zip(folded, problem.models, strict=True)]
    began = perf_counter()
    moments = _measure_on_data(problem, folded, code, progress) if code else None
    frame = RotationFrame(problem, folded, reference, moments)
    matched = matching(frame, progress)
    share = (perf_counter() - began) / len(matched)
    for number, one in matched.items():
        progress("checking the function", 0, 0)
        found.append(_rotated(frame, number, one, tied[number], share))
    return RotatedModels(problem, {n: one.maps for n, one in matched.items()}, tuple(found))


def _measure_on_data(
    problem: RotationProblem, folded: Sequence[FoldedNorms], code: UserCode, progress: Progress
) -> StreamMoments:
    batches = data_of(code, problem.models, problem.machine, progress)
    return measure_streams(problem, code, folded, batches, progress)


def _rotated(
    frame: RotationFrame, number: int, found: MapMatching, tied: float | None, seconds: float
) -> Rotated:
    """Return the outcome for one model. seconds: already spent on it."""
    began, problem = perf_counter(), frame.problem
    reference, model = (problem.models[n] for n in (frame.reference, number))
    moved = Carried(frame.folded[number], problem.folding.moving.tensors, found.maps)
    outcome = rotated_outcome(problem, model, found, moved, tied)
    return replace(outcome, reference=reference.path, seconds=seconds + perf_counter() - began)


def is_settled_reference(reference: Checkpoint) -> bool:
    """Return whether a reference is as it has to be: folded, its heads as those of the others."""
    return is_folded(reference) and not reference.apart
