"""Carrying out an alignment by orthogonal maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from torch import Tensor

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.align.orthogonal.learn import LearnedMaps, MidpointLesson
from rebasin_cli.commands.align.orthogonal.plan import ACTIVATIONS, OrthogonalPlan
from rebasin_cli.commands.align.orthogonal.stream_moments import stream_moments
from rebasin_cli.commands.align.straight_through.midpoints import DataSplit, batchwise
from rebasin_cli.errors import RebasinError
from rebasin_cli.files.part_sources import part_of
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.provenance import folded_basin, is_folded, provenance
from rebasin_cli.files.targets import Target
from rebasin_cli.files.write import Result
from rebasin_cli.folding.folded_models import Folded, check_tied, folded_parts, measure_function
from rebasin_cli.folding.map_file import save_maps
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import build_network
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.presentation.outcomes import Failed, LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import InMemory, TensorSource


@dataclass(frozen=True)
class Rotated:
    """A model brought next to a folded reference by the maps that its spec allows.

    classes: by class of maps, how many groups have it. cosine: of the folded models, before and
    after matching. learned: what learning made of that. saved: the file of the maps. tied,
    function: see `Folded`.
    """

    model: Path
    reference: Path
    spec: str
    classes: dict[str, int]
    cosine: Change
    sweeps: int
    learned: LearnedMaps | None
    written: Written
    saved: Written | None
    seconds: float
    tied: float | None = None
    function: FunctionDifference | None = None


def run_orthogonal(
    plan: OrthogonalPlan, progress: Progress
) -> Iterator[LeftAsIs | Failed | Folded | Rotated]:
    """Yield the folded reference, then each model as soon as it is written."""
    (reference, *models), (first, *targets) = plan.models, plan.targets
    yield _fold_reference(plan, reference, first, progress)
    for model, target, place in zip(models, targets, plan.places, strict=True):
        if target.place.skip:
            yield LeftAsIs(target.path, "exists")
            continue
        try:
            yield _rotate(plan, model, (target, place), progress)
        except RebasinError as error:
            if len(models) == 1:
                raise
            yield Failed(model.path, error)


def _fold_reference(
    plan: OrthogonalPlan, reference: Checkpoint, target: Target, progress: Progress
) -> LeftAsIs | Folded:
    if is_folded(reference):
        return LeftAsIs(reference.path, "reference")
    if target.place.skip:
        return LeftAsIs(target.path, "exists")
    folded = FoldedNorms(reference, plan.folding)
    tied = check_tied(folded, reference)
    progress("checking the function", 0, 0)
    function = measure_function(plan.check, reference, folded, tied, reference.path)
    facts = provenance(
        "align", [reference], basin=folded_basin(reference), spec=plan.choice.name, folded=True
    )
    progress(f"writing {target.path.name}", 0, 0)
    result = Result(folded, reference, facts, folded_parts(reference, plan.folding))
    written = write_result(result, target, plan.request, inputs=[reference])
    norms = len(plan.folding.bound.norms)
    return Folded(reference.path, plan.choice.name, norms, written, tied, function)


def _rotate(
    plan: OrthogonalPlan,
    model: Checkpoint,
    into: tuple[Target, OutputPlace | None],
    progress: Progress,
) -> Rotated:
    began, (target, place) = perf_counter(), into
    reference, folding = plan.models[0], plan.folding
    bound, classes = folding.moving, folding.classes
    folded = FoldedNorms(model, folding)
    tied = check_tied(folded, model)
    pair = FoldedNorms(reference, folding), folded
    batches = data_of(plan.code, (reference, model), plan.machine, progress) if plan.code else None
    moments = _moments(plan, pair, batches, progress)
    found = match_maps(*pair, bound, classes, moments=moments, progress=progress)
    learned = _learn(plan, model, found.maps, batches, progress)
    maps = learned.maps if learned else found.maps
    moved = Carried(folded, bound.tensors, maps)
    progress("checking the function", 0, 0)
    function = measure_function(plan.check, model, moved, tied, model.path)
    facts = provenance(
        "align",
        [reference, model],
        basin=folded_basin(reference),
        spec=plan.choice.name,
        folded=True,
        symmetry="orthogonal",
    )

    def part(key: str) -> TensorSource:
        held = FoldedNorms(part_of(model, key, bound.tensors), folding)
        return Carried(held, bound.tensors, maps)

    progress(f"writing {target.path.name}", 0, 0)
    written = write_result(
        Result(moved, model, facts, part), target, plan.request, inputs=[reference, model]
    )
    saved = save_maps(place, maps, folding, (reference, model), plan.request.selection.sizes)
    return Rotated(
        model=model.path,
        reference=reference.path if is_folded(reference) else plan.targets[0].path,
        spec=plan.choice.name,
        classes=_counted(classes),
        cosine=found.cosine,
        sweeps=found.sweeps,
        learned=learned,
        written=written,
        saved=saved,
        seconds=perf_counter() - began,
        tied=tied,
        function=function,
    )


def _moments(
    plan: OrthogonalPlan,
    pair: tuple[TensorSource, TensorSource],
    batches: Batches | None,
    progress: Progress,
) -> dict[str, Tensor] | None:
    """Return what the streams of both models do on the data, if it is asked for that."""
    code = plan.code
    if code is None or batches is None or plan.request.search.method != ACTIVATIONS:
        return None
    progress("running the models", 0, 0)
    nets = [build_network(code.network, source, plan.machine) for source in pair]
    return stream_moments(nets, pair, code.network, plan.folding, batches)


def _learn(
    plan: OrthogonalPlan,
    model: Checkpoint,
    start: GroupMaps,
    batches: Batches | None,
    progress: Progress,
) -> LearnedMaps | None:
    """Return what is learned from the midpoint's answers, if that was asked for."""
    code, request = plan.code, plan.request
    if code is None or batches is None or not request.learn:
        return None
    reference, bound = plan.models[0], plan.folding.moving
    nets = [build_network(code.network, end, plan.machine) for end in (reference, model, reference)]
    folded = (FoldedNorms(end, plan.folding) for end in (reference, model))
    first, second = (_in_float64(source) for source in folded)
    lesson = MidpointLesson(
        ends=(nets[0].requires_grad_(False), nets[1].requires_grad_(False)),
        midpoint=batchwise(nets[2]),
        network=code.network,
        pair=(first, second),
        bound=bound,
        split=DataSplit(batches, request.learning.held_out),
    )
    return lesson.learn(start, plan.folding.classes, request.learn, progress)


def _in_float64(source: TensorSource) -> InMemory:
    """Return all floating tensors of a source, in memory."""
    names = (name for name in source.names() if source.info(name).floating)
    return InMemory({name: source.load(name).double() for name in names})


def _counted(classes: dict[str, str]) -> dict[str, int]:
    names = [name.partition(",")[0] for name in classes.values()]
    return {name: names.count(name) for name in sorted(set(names))}
