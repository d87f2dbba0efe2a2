"""Carrying out `rebasin merge --method least-squares`: align, average, solve layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor, nn

from rebasin_cli.alignment.results import write_result
from rebasin_cli.commands.merge.least_squares.fitting import MergedLayer, check_room, sums_of
from rebasin_cli.commands.merge.least_squares.growth_proof import CHANGED, GrowthProof
from rebasin_cli.commands.merge.least_squares.normal_equations import (
    Fit,
    LayerSums,
    error_of,
    solve,
)
from rebasin_cli.commands.merge.least_squares.plan import LeastSquaresPlan, no_growth
from rebasin_cli.commands.merge.least_squares.solvable_layers import (
    SolvableLayer,
    as_matrix,
    as_weight,
)
from rebasin_cli.commands.merge.least_squares.wider_axis import WiderAxis, wider_units
from rebasin_cli.commands.merge.least_squares.wider_mean import (
    TensorAxes,
    WiderMean,
    wider_tensors,
)
from rebasin_cli.commands.merge.least_squares.wider_network import wider_network
from rebasin_cli.commands.merge.linear_maps.readers import seen_at, stacked_moments
from rebasin_cli.commands.merge.linear_maps.zipit import correlations
from rebasin_cli.commands.merge.merged import Merged, Solved
from rebasin_cli.commands.merge.run import Together, brought_together, merged_outcome
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.corrected import Report
from rebasin_cli.renormalization.plan import has_batch_norm
from rebasin_cli.renormalization.run import Parents, correct_statistics
from rebasin_cli.tensors import TensorSource, infos
from rebasin_cli.tensors.derived import Replaced

UNCALLED = "the data do not call it"


@dataclass(frozen=True)
class Wider:
    """What becomes wider. groups: their axes; tensors: those of the tensors they stand on.

    narrow: groups that stay as they are, and why. difference: see `Solved`.
    """

    groups: Mapping[str, WiderAxis]
    tensors: Mapping[str, TensorAxes]
    narrow: Mapping[str, str]
    difference: float | None


def run_least_squares(plan: LeastSquaresPlan, progress: Progress) -> Iterator[LeftAsIs | Merged]:
    """Yield the merged model."""
    merge = plan.merge
    if merge.target.place.skip:
        yield LeftAsIs(merge.target.path, "exists")
        return
    began = perf_counter()
    together = brought_together(merge, progress)
    models = [build_network(plan.code.network, s, merge.machine) for s in together.sources]
    wider = _wider(plan, together, models, progress)
    average = WiderMean(together.mean, together.sources, _shares(plan), wider.tensors)
    solution, fits = _solved(plan, models, average, wider, progress)
    source, report = _renormalized(plan, Replaced(average, solution), progress)
    progress(f"writing {merge.target.path.name}", 0, 0)
    others = {name: average.info(name) for name in wider.tensors}
    result = Result(source, merge.models[0], _facts(plan), others=others)
    written = write_result(
        result, merge.target, plan.request, inputs=merge.models, found=together.found
    )
    merged = merged_outcome(merge, together, written, perf_counter() - began)
    stale = report is None and has_batch_norm(merge.models[0])
    solved = _outcome(plan, models[0], average, wider, fits)
    yield replace(merged, solved=solved, report=report, stale=stale)


def _shares(plan: LeastSquaresPlan) -> list[float]:
    weights = plan.merge.mixture.weights.models
    return [weight / sum(weights) for weight in weights]


def _wider(
    plan: LeastSquaresPlan, together: Together, models: Sequence[nn.Module], progress: Progress
) -> Wider:
    """Return what becomes wider: proved on the first model, chosen by what units do on the data."""
    growth, choice = plan.growth, plan.merge.choice
    if choice is None or not growth.apart:
        return Wider({}, {}, growth.narrow, None)
    progress("proving that layers may be wider", 0, 0)
    proof = GrowthProof(
        together.sources[0], plan.code.network, choice, growth.sides, plan.merge.machine
    )
    kept, difference = proof.kept(growth.apart)
    narrow = {**growth.narrow, **{g: CHANGED for g in growth.apart if g not in kept}}
    if not kept:
        raise no_growth(narrow)
    groups = _groups(plan, kept, models, progress)
    tensors = wider_tensors(choice.bound.tensors, groups, growth.sides)
    return Wider(groups, tensors, narrow, difference)


def _groups(
    plan: LeastSquaresPlan, kept: Sequence[str], models: Sequence[nn.Module], progress: Progress
) -> dict[str, WiderAxis]:
    """Return the axes of groups; units that correlate the least with their partners stay apart."""
    machine, growth = plan.merge.machine, plan.growth
    readers = seen_at(plan.code.network, {group: growth.readers[group] for group in kept})
    moments = stacked_moments(models, readers, batches_of(plan.code, machine), progress=progress)
    found = {}
    for group, seen in moments.items():
        size = len(seen.covariance) // 2
        alike = correlations(seen.covariance.cpu()).diagonal(size)
        apart = alike.sort(stable=True).indices[: growth.apart[group]]
        found[group] = wider_units(size, apart)
    return found


def _solved(
    plan: LeastSquaresPlan,
    models: Sequence[nn.Module],
    average: TensorSource,
    wider: Wider,
    progress: Progress,
) -> tuple[dict[str, Tensor], dict[str, Fit]]:
    """Return the tensors of layers by their names in the checkpoint, and how well each fits."""
    layers = {
        layer.name: MergedLayer(layer.name, *_ends(wider.tensors.get(layer.weight)))
        for layer in plan.solvable.layers
    }
    machine = plan.merge.machine
    check_room([*layers.values()], models[0], machine)
    batches = batches_of(plan.code, machine)
    sums = sums_of(models, _shares(plan), [*layers.values()], batches, progress)
    tensors: dict[str, Tensor] = {}
    fits: dict[str, Fit] = {}
    for count, layer in enumerate(layer for layer in plan.solvable.layers if layer.name in sums):
        progress("solving layer by layer", count, len(sums))
        module = models[0].get_submodule(layer.name)
        found, fits[layer.name] = _solve(
            layer, module, layers[layer.name], sums[layer.name], average
        )
        tensors |= found
    return tensors, fits


def _ends(axes: TensorAxes | None) -> tuple[WiderAxis | None, WiderAxis | None]:
    return (axes.into, axes.out) if axes else (None, None)


def _solve(
    layer: SolvableLayer,
    module: nn.Module,
    merged: MergedLayer,
    sums: LayerSums,
    average: TensorSource,
) -> tuple[dict[str, Tensor], Fit]:
    """Return the tensors of one layer; the bias is the weight of an input that is always 1."""
    held = average.load(layer.weight)
    start = as_matrix(module, held.double())
    if layer.bias is not None:
        bias = average.load(layer.bias).double().view(*start.shape[:2], 1)
        start = torch.cat([start, bias], 2)
    sums = sums.cpu()
    parts = merged.parts(start.shape[2], start.shape[1], bias=layer.bias is not None)
    found = solve(sums, start, parts)
    fit = Fit(sums.count, error_of(sums, start), error_of(sums, found))
    if layer.bias is None:
        return {layer.weight: as_weight(module, found, held).float()}, fit
    weight = as_weight(module, found[..., :-1], held)
    return {layer.weight: weight.float(), layer.bias: found[..., -1].flatten().float()}, fit


def _renormalized(
    plan: LeastSquaresPlan, source: TensorSource, progress: Progress
) -> tuple[TensorSource, Report | None]:
    if plan.correction is None:
        return source, None
    code = plan.correction.code
    assert code is not None, "reset runs the model"
    shapes = {
        name: info.shape
        for name, info in infos(source).items()
        if name in code.network.windows and info.shape != code.network.windows[name].shape
    }
    wide = replace(code, network=wider_network(code.network, shapes))
    return correct_statistics(
        source,
        Parents(),
        plan=replace(plan.correction, code=wide),
        machine=plan.merge.machine,
        progress=progress,
    )


def _facts(plan: LeastSquaresPlan) -> dict[str, str]:
    """Return the provenance: what is solved lies in no parent's basin."""
    merge = plan.merge
    width = {"width": plan.request.width} if plan.growth.apart else {}
    return provenance(
        "merge",
        merge.models,
        basin=None,
        spec=merge.choice.name if merge.choice else None,
        seed=plan.request.computing.seed,
        strategy=merge.strategy,
        weights=list(merge.mixture.weights.models),
        method=plan.request.search.method,
        **width,
    )


def _outcome(
    plan: LeastSquaresPlan,
    model: nn.Module,
    average: WiderMean,
    wider: Wider,
    fits: Mapping[str, Fit],
) -> Solved:
    windows, held = plan.code.network.windows, dict(model.named_parameters())
    own = {name for name, window in windows.items() if window.source in held}
    uncalled = {x.name: UNCALLED for x in plan.solvable.layers if x.name not in fits}
    return Solved(
        layers=fits,
        others={**plan.solvable.others, **uncalled},
        width=plan.request.width,
        wider={name: (axis.before, len(axis)) for name, axis in wider.groups.items()},
        narrow=wider.narrow,
        parameters=_parameters(average, own),
        single=_parameters(plan.merge.models[0], own),
        difference=wider.difference,
    )


def _parameters(source: TensorSource, names: Collection[str]) -> int:
    return sum(info.numel for name, info in infos(source).items() if name in names)
