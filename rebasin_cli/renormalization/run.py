"""Correcting the statistics of a model that is a mean of others: built, measured, taken apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rebasin_cli.activations.layer_statistics import LayerStatistics, from_flat, goals, layer_tensor
from rebasin_cli.activations.measuring import layer_statistics
from rebasin_cli.errors import UsageError
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.correctable_layers import Skipped
from rebasin_cli.network.network import Network, UserCode
from rebasin_cli.network.user_code import users_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.renormalization.bias_calibration import CALIBRATIONS, paths_in_spec
from rebasin_cli.renormalization.bias_paths import paths_to_biases
from rebasin_cli.renormalization.corrected import Corrected, CorrectionReport
from rebasin_cli.renormalization.correction_methods import renormalize
from rebasin_cli.renormalization.plan import CALIBRATE, CorrectionPlan
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import Window
from rebasin_cli.tensors.derived import Replaced
from rebasin_cli.tracer.recording.capture import record


@dataclass(frozen=True)
class Parents:
    """What a model is the mean of, in its basin. bound: their spec, if one is known."""

    sources: Sequence[TensorSource] = ()
    weights: Sequence[float] = ()
    bound: BoundSpec | None = None


def correct_statistics(
    source: TensorSource,
    parents: Parents,
    *,
    plan: CorrectionPlan,
    machine: Machine,
    progress: Progress,
) -> tuple[TensorSource, CorrectionReport]:
    """Return a model with its statistics corrected, and what was done to it.

    Tensors that no correction touches are those of the source, bit for bit. Raises UsageError
    where the method finds nothing to correct, or is not valid for the network.
    """
    code = plan.code
    if plan.method == CALIBRATE or code is None:
        return _calibrated(source, parents, plan, progress)
    network = code.network
    batches = batches_of(code, machine) if code.fed else None
    model = build_network(network, source, machine)
    known = _known(parents, plan, code, machine, progress)
    found = goals(known, parents.weights or _equal(known)) if known else {}
    how = replace(plan.how, selects=_selects(network, plan), progress=progress)
    report = renormalize(model, found, batches, how)
    return Replaced(source, _taken(model, network, report.tensors, source)), report


def correct_if_planned(
    source: TensorSource,
    parents: Parents,
    *,
    plan: CorrectionPlan | None,
    machine: Machine,
    progress: Progress,
) -> tuple[TensorSource, CorrectionReport | None]:
    """Return a model, its statistics corrected if that is planned, and then what was done to it."""
    if plan is None:
        return source, None
    return correct_statistics(source, parents, plan=plan, machine=machine, progress=progress)


def _known(
    parents: Parents,
    plan: CorrectionPlan,
    code: UserCode,
    machine: Machine,
    progress: Progress,
) -> dict[str, LayerStatistics]:
    """Return what the layers of the parents do: measured, or from a file."""
    if plan.statistics is not None:
        file = plan.statistics
        known = from_flat({name: file.load(name) for name in file.names() if layer_tensor(name)})
        if not known:
            raise UsageError(f"{file.path} holds no statistics of layers", hint="layer.NAME.mean.0")
        return known
    if not plan.by_parents:
        return {}
    models = []
    for number, source in enumerate(parents.sources):
        progress("building the parents", number, len(parents.sources))
        models.append(build_network(code.network, source, machine))
    progress("measuring the parents", 0, 0)
    batches = batches_of(code, machine)
    return layer_statistics(models, batches, together=plan.method == "closed-form")


def _equal(known: Mapping[str, LayerStatistics]) -> list[float]:
    return [1.0] * len(next(iter(known.values())).means)


def _calibrated(
    source: TensorSource, parents: Parents, plan: CorrectionPlan, progress: Progress
) -> tuple[TensorSource, CorrectionReport]:
    """Replace the biases of a model, by how deep they stand."""
    progress("looking how deep each bias is", 0, 0)
    paths = _paths(parents, plan)
    present = set(source.names())
    chosen = {n: path for n, path in paths.items() if n in present and plan.selection.selects(n)}
    if not chosen:
        raise UsageError("calibrate finds no bias", hint="without biases nothing has to be done")
    biases = CALIBRATIONS[plan.decay](parents.sources, parents.weights, chosen)
    done = (Corrected(n, f"calibrated at depth {len(p)}", (n,)) for n, p in chosen.items())
    left = (Skipped(name, "not selected") for name in paths if name not in chosen)
    return Replaced(source, biases), CorrectionReport(plan.method, tuple(done), tuple(left))


def _paths(parents: Parents, plan: CorrectionPlan) -> dict[str, tuple[str, ...]]:
    """Return the weights up to every bias, by their names in the checkpoint."""
    if plan.code is None:
        assert parents.bound is not None, "the plan has chosen a spec"
        return paths_in_spec(parents.bound)
    network = plan.code.network
    with users_code("the model"), torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = network.subject.build()
        examples = network.subject.examples(model)[:1]
        seen = record(model, [(example.args, example.kwargs) for example in examples])
    stored = {window.source: name for name, window in network.windows.items()}
    found = paths_to_biases(seen).items()
    return {stored[n]: tuple(stored[w] for w in path) for n, path in found if n in stored}


def _selects(network: Network, plan: CorrectionPlan) -> Callable[[str], bool]:
    """Return what takes tensors by their names in the model."""
    stored: dict[str, list[str]] = {}
    for name, window in network.windows.items():
        stored.setdefault(window.source, []).append(name)
    return lambda name: any(map(plan.selection.selects, stored.get(name, ())))


def _taken(
    model: nn.Module, network: Network, names: Sequence[str], source: TensorSource
) -> dict[str, Tensor]:
    """Return what lies in some tensors of a model, by name in the checkpoint."""
    held, wanted, present = model.state_dict(), set(names), set(source.names())
    return {
        stored: _through(window, held[window.source])
        for stored, window in network.windows.items()
        if window.source in wanted and stored in present
    }


def _through(window: Window, tensor: Tensor) -> Tensor:
    """Return a window of a tensor, on the CPU."""
    whole = tensor.detach().cpu().contiguous()
    return whole.as_strided(window.shape, window.strides, window.offset).contiguous()
