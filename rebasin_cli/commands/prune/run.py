"""Carrying out `rebasin prune`: find what is small, then write zeros in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from time import perf_counter

from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.prune.plan import Pruned, PrunedTensor, PrunePlan
from rebasin_cli.commands.prune.thresholds import METHODS, Threshold, Zeroed, pack_mask
from rebasin_cli.files.provenance import basin_of, provenance
from rebasin_cli.files.write import MASKS, Result
from rebasin_cli.merging.sources import Finite
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import Report
from rebasin_cli.renormalization.run import Parents, correct_statistics
from rebasin_cli.tensors import TensorSource

MOST = 64 << 20  # bytes of masks: readers refuse headers of more than 100 MB


def run_prune(plan: PrunePlan, progress: Progress) -> Iterator[LeftAsIs | Pruned]:
    """Yield the pruned model. Tensors that are not pruned keep every bit."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began = perf_counter()
    source = _finite(plan)
    progress("looking for the smallest weights", 0, 0)
    thresholds = METHODS[plan.method](source, plan.names, plan.sparsity)
    tensors, masks = _looked_at(plan, source, thresholds, progress)
    result, report = _corrected(plan, source, Zeroed(source, thresholds), progress)
    progress(f"writing {plan.target.path.name}", 0, 0)
    facts = {**_facts(plan, tensors), **masks}
    written = write_result(Result(result, plan.model, facts), plan.target, plan.request)
    yield Pruned(
        model=plan.model.path,
        method=plan.method,
        sparsity=plan.sparsity,
        tensors=tensors,
        others=len(plan.model.names()) - len(plan.names),
        masks=bool(masks),
        written=written,
        seconds=perf_counter() - began,
        report=report,
    )


def _finite(plan: PrunePlan) -> Finite:
    hint = "repair the checkpoint, or leave the tensor as it is with --skip"
    return Finite(plan.model, str(plan.model.path), hint, frozenset(plan.names).__contains__)


def _corrected(
    plan: PrunePlan, dense: TensorSource, sparse: TensorSource, progress: Progress
) -> tuple[TensorSource, Report | None]:
    """Return the pruned model with the statistics of the dense one, if that is asked for.

    What is zero stays zero: corrections multiply weights.
    """
    if plan.correction is None:
        return sparse, None
    parents = Parents((dense,), (1.0,))
    return correct_statistics(
        sparse, parents, plan=plan.correction, machine=plan.machine, progress=progress
    )


def _looked_at(
    plan: PrunePlan, source: TensorSource, thresholds: Mapping[str, Threshold], progress: Progress
) -> tuple[tuple[PrunedTensor, ...], dict[str, str]]:
    """Return what stays of each tensor, and the metadata that say where, if they can be kept."""
    room = _room(plan)
    tensors, masks = [], {}
    for count, name in enumerate(plan.names):
        progress("marking what stays", count, len(plan.names))
        mask = thresholds[name].keeps(source.load(name))
        stays = PrunedTensor(name, mask.numel(), int(mask.sum()), thresholds[name].magnitude)
        tensors.append(stays)
        if room > 0:
            masks[name] = pack_mask(mask)
            room -= len(name) + len(masks[name])
    return tuple(tensors), {MASKS: json.dumps(masks, sort_keys=True)} if room > 0 else {}


def _room(plan: PrunePlan) -> int:
    """Return the bytes that masks may take in the metadata, which every shard has."""
    layout = plan.target.layout
    if layout.format != "safetensors":
        return 0
    return MOST // max(1, len(set(layout.shards.values())))


def _facts(plan: PrunePlan, tensors: tuple[PrunedTensor, ...]) -> dict[str, str]:
    """Return the record of where the model comes from: its units keep their order."""
    return provenance(
        "prune",
        [plan.model],
        basin=basin_of(plan.model),
        method=plan.method,
        sparsity=plan.sparsity,
        renormalize=plan.correction.method if plan.correction else None,
        thresholds={tensor.name: tensor.threshold for tensor in tensors},
        weights={tensor.name: tensor.weights for tensor in tensors},
        kept={tensor.name: tensor.kept for tensor in tensors},
    )
