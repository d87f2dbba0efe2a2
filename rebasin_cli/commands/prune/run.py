"""Carrying out `rebasin prune`: find what is small, then write zeros in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.prune.fisher.plan import DIAGONAL
from rebasin_cli.commands.prune.fisher.rank import Dense, rank_by_blocks, rank_by_diagonal
from rebasin_cli.commands.prune.plan import PrunePlan
from rebasin_cli.commands.prune.ranking import FisherFacts, Ranking, by_magnitude
from rebasin_cli.commands.prune.thresholds import (
    METHODS,
    Rule,
    Threshold,
    global_thresholds,
    pack_mask,
)
from rebasin_cli.files.provenance import basin_of, provenance
from rebasin_cli.files.write import MASKS, Result
from rebasin_cli.merging.sources import Finite
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import CorrectionReport
from rebasin_cli.renormalization.run import Parents, correct_if_planned
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.torch_threads import one_thread


@dataclass(frozen=True)
class PrunedTensor:
    """How many weights of one tensor stay.

    threshold: the largest magnitude, or by the Fisher the largest cost, that was removed; None
    where neighbours were compared.
    """

    name: str
    weights: int
    kept: int
    threshold: float | None


@dataclass(frozen=True)
class Pruned:
    """A model of which the smallest weights were set to zero.

    others: tensors that were not pruned. masks: whether the file's metadata hold them. report: how
    the statistics were corrected, if they were. fisher: what judged the weights.
    """

    model: Path
    method: str
    sparsity: float | None
    pattern: str | None
    tensors: tuple[PrunedTensor, ...]
    others: int
    masks: bool
    written: Written
    seconds: float
    report: CorrectionReport | None = None
    fisher: FisherFacts | None = None

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def kept(self) -> int:
        return sum(tensor.kept for tensor in self.tensors)

    @property
    def threshold(self) -> float | None:
        """The magnitude or cost that decided, None where each tensor has its own."""
        found = {tensor.threshold for tensor in self.tensors}
        return found.pop() if self.method != "layer-magnitude" and len(found) == 1 else None


MOST = 64 << 20  # bytes of masks: readers refuse headers of more than 100 MB


def run_prune(plan: PrunePlan, progress: Progress) -> Iterator[LeftAsIs | Pruned]:
    """Yield the pruned model. Tensors that are not pruned keep every bit."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began = perf_counter()
    source = _finite(plan)
    # gradients, and the order they give, do not depend on the machine's load then
    with one_thread() if plan.fisher else nullcontext():
        ranking = _rank_weights(plan, source, progress)
        progress("looking for the smallest weights", 0, 0)
        rules = _rules(plan, ranking)
        tensors, masks = _looked_at(plan, ranking, rules, progress)
        sparse = ranking.pruned(rules)
    result, report = _corrected(plan, source, sparse, progress)
    progress(f"writing {plan.target.path.name}", 0, 0)
    facts = {**_facts(plan, ranking, tensors), **masks}
    written = write_result(Result(result, plan.model, facts), plan.target, plan.request)
    yield Pruned(
        model=plan.model.path,
        method=plan.request.method,
        sparsity=plan.request.sparsity,
        pattern=plan.request.pattern,
        tensors=tensors,
        others=len(plan.model.names()) - len(plan.names),
        masks=bool(masks),
        written=written,
        seconds=perf_counter() - began,
        report=report,
        fisher=ranking.fisher,
    )


def _rank_weights(plan: PrunePlan, source: TensorSource, progress: Progress) -> Ranking:
    if plan.fisher is None:
        return by_magnitude(source)
    dense = Dense(source, plan.names, plan.fisher.code, plan.machine, progress)
    if plan.request.method == DIAGONAL:
        return rank_by_diagonal(dense)
    return rank_by_blocks(dense, plan.fisher.block_size, plan.fisher.damping)


def _rules(plan: PrunePlan, ranking: Ranking) -> Mapping[str, Rule]:
    """Return the rule for which weights stay, by the name of the tensor."""
    if plan.pattern is not None:
        return dict.fromkeys(plan.names, plan.pattern)
    find = METHODS.get(plan.request.method, global_thresholds)
    return find(ranking.values, plan.names, plan.request.sparsity or 0.0)


def _finite(plan: PrunePlan) -> Finite:
    hint = "repair the checkpoint, or leave the tensor as it is with --skip"
    return Finite(plan.model, str(plan.model.path), hint, frozenset(plan.names).__contains__)


def _corrected(
    plan: PrunePlan, dense: TensorSource, sparse: TensorSource, progress: Progress
) -> tuple[TensorSource, CorrectionReport | None]:
    """Return the pruned model with the statistics of the dense one, if that is asked for.

    What is zero stays zero: corrections multiply weights.
    """
    parents = Parents((dense,), (1.0,))
    return correct_if_planned(
        sparse, parents, plan=plan.correction, machine=plan.machine, progress=progress
    )


def _looked_at(
    plan: PrunePlan, ranking: Ranking, rules: Mapping[str, Rule], progress: Progress
) -> tuple[tuple[PrunedTensor, ...], dict[str, str]]:
    """Return what stays of each tensor, and the metadata that say where, if they can be kept."""
    room = _room(plan)
    tensors, masks = [], {}
    for count, name in enumerate(plan.names):
        progress("marking what stays", count, len(plan.names))
        rule = rules[name]
        mask = rule.keeps(ranking.values.load(name))
        limit = rule.magnitude if isinstance(rule, Threshold) else None
        tensors.append(PrunedTensor(name, mask.numel(), int(mask.sum()), limit))
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


def _facts(plan: PrunePlan, ranking: Ranking, tensors: tuple[PrunedTensor, ...]) -> dict[str, str]:
    """Return the record of where the model comes from: its units keep their order."""
    return provenance(
        "prune",
        [plan.model],
        basin=basin_of(plan.model),
        method=plan.request.method,
        sparsity=plan.request.sparsity,
        pattern=plan.request.pattern,
        fisher=vars(ranking.fisher) if ranking.fisher else None,
        renormalize=plan.correction.method if plan.correction else None,
        thresholds={tensor.name: tensor.threshold for tensor in tensors},
        weights={tensor.name: tensor.weights for tensor in tensors},
        kept={tensor.name: tensor.kept for tensor in tensors},
    )
