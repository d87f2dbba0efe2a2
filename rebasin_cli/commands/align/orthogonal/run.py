"""Carrying out an alignment by orthogonal maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.orthogonal.learn import MapLearning
from rebasin_cli.commands.align.orthogonal.map_learning_state import (
    kept_learning,
    read_map_learning,
)
from rebasin_cli.commands.align.orthogonal.plan import OrthogonalPlan
from rebasin_cli.commands.align.straight_through.midpoints import batchwise
from rebasin_cli.errors import RebasinError
from rebasin_cli.files.part_sources import part_of
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.provenance import folded_basin, folded_facts, provenance
from rebasin_cli.files.targets import Target
from rebasin_cli.files.write import Result
from rebasin_cli.folding.folded_models import (
    Folded,
    check_tied,
    fold_model,
    folded_parts,
)
from rebasin_cli.folding.map_file import save_maps
from rebasin_cli.folding.rotated_models import is_settled_reference
from rebasin_cli.folding.rotated_outcome import LearnedMaps, Rotated, rotated_outcome
from rebasin_cli.folding.rotation_data import ACTIVATIONS, measure_streams
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import build_network
from rebasin_cli.network.data_split import DataSplit
from rebasin_cli.network.network import Network
from rebasin_cli.network.sampled_text import data_of
from rebasin_cli.presentation.outcomes import Failed, LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.null_model import FoldedPair, with_null
from rebasin_cli.tensors import InMemory, TensorSource


def run_orthogonal(
    plan: OrthogonalPlan,
    progress: Progress,
    *,
    known: Callable[[Path], MapMatching | None] = lambda path: None,
) -> Iterator[LeftAsIs | Failed | Folded | Rotated]:
    """Yield the folded reference, then each model as soon as it is written.

    known: what has been found already of the model at a path. What it raises is that model's
    failure.
    """
    (reference, *models), (first, *targets) = plan.problem.models, plan.targets
    yield _fold_reference(plan, reference, first, progress)
    for model, target, place in zip(models, targets, plan.places, strict=True):
        if target.place.skip:
            yield LeftAsIs(target.path, "exists")
            continue
        try:
            yield _rotate(plan, model, known(model.path), (target, place), progress)
        except RebasinError as error:
            if len(models) == 1:
                raise
            yield Failed(model.path, error)


def _fold_reference(
    plan: OrthogonalPlan, reference: Checkpoint, target: Target, progress: Progress
) -> LeftAsIs | Folded:
    if is_settled_reference(reference):
        return LeftAsIs(reference.path, "reference")
    if target.place.skip:
        return LeftAsIs(target.path, "exists")
    folding, spec = plan.problem.folding, plan.problem.choice.name
    progress("checking the function", 0, 0)
    folded = fold_model(reference, folding, plan.problem.check, spec)
    told = folded_facts(plan.problem.heads)
    facts = provenance("align", [reference], basin=folded_basin(reference), spec=spec, **told)
    progress(f"writing {target.path.name}", 0, 0)
    source, parts = FoldedNorms(reference, folding), folded_parts(reference, folding)
    result = Result(source, reference, facts, parts)
    return replace(folded, written=write_result(result, target, plan.request, inputs=[reference]))


def _rotate(
    plan: OrthogonalPlan,
    model: Checkpoint,
    known: MapMatching | None,
    into: tuple[Target, OutputPlace | None],
    progress: Progress,
) -> Rotated:
    began, (target, place) = perf_counter(), into
    reference, folding = plan.problem.models[0], plan.problem.folding
    folded = FoldedNorms(model, folding)
    tied = check_tied(folded, model)
    found, learned = _found(plan, model, folded, known, progress)
    maps = learned.maps if learned else found.maps
    moved = Carried(folded, folding.moving.tensors, maps)
    progress("checking the function", 0, 0)
    outcome = rotated_outcome(plan.problem, model, found, moved, tied)
    progress(f"writing {target.path.name}", 0, 0)
    result = _result(plan, model, moved, maps)
    written = write_result(result, target, plan.request, inputs=[reference, model])
    saved = save_maps(place, maps, folding, (reference, model), plan.request.selection.sizes)
    if learned and plan.request.learning.resume:
        plan.request.learning.resume.unlink(missing_ok=True)
    return replace(
        outcome,
        reference=reference.path if is_settled_reference(reference) else plan.targets[0].path,
        learned=learned,
        written=written,
        saved=saved,
        seconds=perf_counter() - began,
    )


def _found(
    plan: OrthogonalPlan,
    model: Checkpoint,
    folded: FoldedNorms,
    known: MapMatching | None,
    progress: Progress,
) -> tuple[MapMatching, LearnedMaps | None]:
    """Return the maps that matching finds, and what learning makes of them."""
    reference = plan.problem.models[0]
    runs = plan.code if known is None or plan.request.learn else None
    pair = reference, model
    batches = data_of(runs, pair, plan.problem.machine, progress) if runs else None
    both = FoldedNorms(reference, plan.problem.folding), folded
    found = known or match_folded(plan, both, batches, progress)
    return found, _learn(plan, model, found.maps, batches, progress)


def _result(plan: OrthogonalPlan, model: Checkpoint, moved: Carried, maps: GroupMaps) -> Result:
    """Return what is written: the moved model, its provenance, and its other sets of weights."""
    reference, folding = plan.problem.models[0], plan.problem.folding
    facts = provenance(
        "align",
        [reference, model],
        basin=folded_basin(reference),
        spec=plan.problem.choice.name,
        **plan.problem.facts,
    )
    tensors = folding.moving.tensors

    def part(key: str) -> TensorSource:
        return Carried(FoldedNorms(part_of(model, key, tensors), folding), tensors, maps)

    return Result(moved, model, facts, part)


def match_folded(
    plan: OrthogonalPlan, pair: FoldedPair, batches: Batches | None, progress: Progress
) -> MapMatching:
    """Return the maps of a folded pair, with -v and by weights alone their null value too.

    Not of models that are streamed: random maps drawn anew for each read would take hours.
    batches: of the data, if the models are run.
    """
    folding, moments = plan.problem.folding, _moments(plan, pair, batches, progress)
    machine = plan.problem.machine
    found = match_maps(
        *pair,
        folding.moving,
        folding.classes,
        moments=moments,
        settings=plan.problem.settings,
        progress=progress,
    )
    if moments is not None or plan.problem.streamed or not plan.request.display.margins:
        return found
    seed, device = machine.seed, machine.device
    return with_null(found, pair, folding, seed=seed, device=device, progress=progress)


def _moments(
    plan: OrthogonalPlan, pair: FoldedPair, batches: Batches | None, progress: Progress
) -> dict[str, Tensor] | None:
    """Return what the streams of both models do on the data, if it is asked for that."""
    code = plan.code
    if code is None or batches is None or plan.request.search.method != ACTIVATIONS:
        return None
    return measure_streams(plan.problem, code, pair, batches, progress).between(0, 1)


def _learn(
    plan: OrthogonalPlan,
    model: Checkpoint,
    start: GroupMaps,
    batches: Batches | None,
    progress: Progress,
) -> LearnedMaps | None:
    """Return the maps learned from the midpoint's answers, if --learn asks for that.

    start: the maps that matching found. A file of --resume is read first, and kept up to date.
    """
    code, request = plan.code, plan.request
    if code is None or batches is None or not request.learn:
        return None
    folding = plan.problem.folding
    start, kept = start.to(plan.problem.machine.device), kept_learning(plan, model)
    learned = _map_learning(plan, model, code.network, batches).learn(
        start,
        folding.classes,
        request.learn,
        progress,
        before=read_map_learning(kept, start, folding.classes)
        if kept and kept.path.exists()
        else None,
        keep=lambda state: state.write(kept) if kept else None,
    )
    return replace(learned, maps=learned.maps.to("cpu"))


def _map_learning(
    plan: OrthogonalPlan, model: Checkpoint, network: Network, batches: Batches
) -> MapLearning:
    """Return both ends, the network of their midpoint, and the data, ready for learning."""
    reference, folding, machine = plan.problem.models[0], plan.problem.folding, plan.problem.machine
    ends = (reference, model)
    first, second, midpoint = (
        build_network(network, end, machine) for end in (reference, model, reference)
    )
    folded, other = (_in_float64(FoldedNorms(end, folding), machine.device) for end in ends)
    return MapLearning(
        ends=(first.requires_grad_(False), second.requires_grad_(False)),
        midpoint=batchwise(midpoint),
        network=network,
        pair=(folded, other),
        bound=folding.moving,
        split=DataSplit(batches, plan.request.learning.held_out),
    )


def _in_float64(source: TensorSource, device: str) -> InMemory:
    """Return all floating tensors of a source, in the memory of a device."""
    names = (name for name in source.names() if source.info(name).floating)
    return InMemory({name: source.load(name).to(device, torch.float64) for name in names})
