"""The passes of a merged model in which its layers are measured and corrected.

All layers at once takes one pass: the output of each is corrected on the fly by the statistics of
the batch, as the BatchNorm does in train mode that REPAIR inserts, and BatchNorm layers normalise
by those of the batch; pooled are the moments of what comes in. That is exact for the first layers,
and for all where the data is one batch: deeper layers are measured behind corrections that are
those of one batch each. `sequential` takes a pass a layer, each behind the final corrections of all
layers before it: exact for every layer, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rebasin_cli.activations.layer_statistics import Goal
from rebasin_cli.activations.measuring import Totals, join, keep_undisturbed, measure_layer
from rebasin_cli.activations.moments import Moments, moments
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.correctable_layers import CorrectableLayer, Correction, watch_layers
from rebasin_cli.network.layers import is_turned
from rebasin_cli.network.passes_with_room import pass_with_room
from rebasin_cli.network.scoring.scores import call_model
from rebasin_cli.renormalization.corrected import Corrected, CorrectionSettings
from rebasin_cli.renormalization.formulas import CORRECTORS, correction_of
from rebasin_cli.tensors.numbers import in_float64


@dataclass(frozen=True)
class PassWork:
    """A model whose sites are to be corrected; goals: of the sites that are not norms."""

    model: nn.Module
    sites: tuple[CorrectableLayer, ...]
    goals: Mapping[str, Goal]
    how: CorrectionSettings

    def correction(self, site: CorrectableLayer, found: Moments) -> Correction:
        """Return what brings a site with some moments to its goal."""
        corrector = CORRECTORS[self.how.method]
        wanted = self.wanted(site).on(found.mean.device)  # which may be measured on the CPU
        return correction_of(corrector, found, wanted, biased=site.biased)

    def wanted(self, site: CorrectableLayer) -> Goal:
        return self.how.goal(self.goals[site.name])


def correct_layers(work: PassWork, batches: Batches) -> tuple[Corrected, ...]:
    """Correct the sites in place, by what they do on the data."""
    run = _one_by_one if work.how.sequential else _at_once
    return tuple(run(work, batches))


def _one_by_one(work: PassWork, batches: Batches) -> Iterator[Corrected]:
    for number, site in enumerate(work.sites):
        work.how.progress(f"measuring {site.name}", number, len(work.sites))
        with keep_undisturbed([work.model]):
            found = measure_layer(site, work.model, batches)
        yield _settled(work, site, found)


def _at_once(work: PassWork, batches: Batches) -> Iterator[Corrected]:
    found = pass_with_room([work.model], batches, partial(_seen_at_once, work))
    for site in work.sites:
        yield _settled(work, site, found[site.name])


def _seen_at_once(work: PassWork, batches: Batches) -> Totals:
    """Return what comes into every layer, corrected on the fly; the model stays as it is."""
    found: Totals = {}
    by_name = {site.name: site for site in work.sites}

    def see(name: str, samples: Tensor) -> Correction | None:
        own, site = moments(samples), by_name[name]
        join(found, name, own)
        return None if site.layer.norm else work.correction(site, own)

    with keep_undisturbed([work.model]), watch_layers(work.sites, see):
        for site in work.sites:
            site.layer.module.train(site.layer.norm)
        for number, batch in enumerate(batches):
            work.how.progress("measuring the merged model", number, batches.limit or 0)
            call_model(work.model, batch)
    return found


def _settled(work: PassWork, site: CorrectableLayer, found: Moments) -> Corrected:
    """Write into a layer what its moments ask for."""
    if site.layer.norm:
        return refill_norm(site, found, "statistics reset")
    made = work.correction(site, found)
    return fold_into_layer(site, made, found, work.wanted(site))


def refill_norm(site: CorrectableLayer, found: Moments, how: str) -> Corrected:
    """Write moments into a BatchNorm."""
    norm = cast(_BatchNorm, site.layer.module)
    before = cast(Tensor, norm.running_var).double().sqrt().mean()
    reset(norm, found)
    return Corrected(site.name, how, site.tensors, float(before), float(found.deviation.mean()))


def fold_into_layer(
    site: CorrectableLayer, made: Correction, found: Moments, goal: Goal
) -> Corrected:
    """Write a correction into a layer with some moments; goal: what it is to bring about."""
    fold_correction(site.layer.module, made)
    moved = bool(made.shift.any())
    scaled = bool((made.scale != 1).any())
    how = {
        (True, True): "scaled and shifted",
        (True, False): "scaled",
        (False, True): "shifted",
        (False, False): "as it was",
    }[scaled, moved]
    return Corrected(
        name=site.name,
        how=how if site.biased else f"{how}; it has no bias to shift",
        tensors=site.tensors,
        before=float(found.deviation.mean()),
        after=float((made.scale.abs() * found.deviation).mean()),
        goal=float(goal.deviation.mean()),
    )


def fold_correction(module: nn.Module, correction: Correction) -> None:
    """Make a linear or convolutional layer return what it does now, corrected: in place.

    Computed in float64 and rounded once to the layer's dtype. A layer without a bias takes the
    scale alone.
    """
    assert isinstance(module, nn.Linear | _ConvNd) or is_turned(module), "what can be corrected"
    layer = cast("nn.Linear | _ConvNd", module)
    with torch.no_grad():
        scale = correction.scale.to(in_float64(layer.weight).device)
        layer.weight.copy_(in_float64(layer.weight) * _beside(scale, layer))
        if layer.bias is not None:
            shift = correction.shift.to(scale.device)
            layer.bias.copy_(in_float64(layer.bias) * scale + shift)


def reset(norm: _BatchNorm, found: Moments) -> None:
    """Write the statistics of its inputs into a norm, the variance unbiased as torch stores it.

    How many batches it has seen stays as it is.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(found.mean)
        norm.running_var.copy_(found.unbiased)


def _beside(scale: Tensor, module: nn.Linear | _ConvNd) -> Tensor:
    """Return (n,) factors in the shape in which they multiply a layer's weight.

    A transposed convolution stores (in, out / groups, ...): the inputs of group g write the outputs
    of group g.
    """
    weight = module.weight
    if is_turned(module):
        return scale.view(1, -1)
    if not isinstance(module, _ConvTransposeNd):
        return scale.view(-1, *[1] * (weight.dim() - 1))
    inside = scale.view(module.groups, 1, weight.shape[1])
    rows = weight.shape[0] // module.groups
    flat = inside.expand(module.groups, rows, weight.shape[1]).reshape(weight.shape[:2])
    return flat.view(*weight.shape[:2], *[1] * (weight.dim() - 2))
