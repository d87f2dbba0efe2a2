"""Passes of models over data in which the units of their layers are measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor, nn

from rebasin_cli.activations.layer_statistics import LayerStatistics
from rebasin_cli.activations.moments import CrossMoments, Moments, cross_moments, moments
from rebasin_cli.models.batch import Batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.correctable_layers import CorrectableLayer, find_correctable, watch_layers
from rebasin_cli.network.layers import frozen_state
from rebasin_cli.network.passes_with_room import pass_with_room
from rebasin_cli.network.scoring.scores import call_model

Samples = Mapping[str, list[Tensor]]  # of each layer: (samples, units) for each call of it
Totals = dict[str, Moments]
_Tallied = TypeVar("_Tallied", Moments, CrossMoments)
_HELD = 3 * 8  # bytes for a pair of units: so far, of a batch, of both


class _ReachedError(BaseException):
    """The layer in question was seen: the rest of the model need not run."""


def layer_statistics(
    models: Sequence[nn.Module], batches: Batches, *, together: bool = False, room: int = 0
) -> dict[str, LayerStatistics]:
    """Return what the layers of several models do on the same data, in one pass of each.

    Measured are what every layer returns that can be corrected, before the activation, and what
    every BatchNorm reads. The models share their class. together: how their units correlate, too;
    then the outputs of all models for one batch are in memory at once. room: bytes for the
    covariances of all units of a layer, of which the narrowest layers get theirs.
    """
    measured = partial(_layer_statistics, models, together=together, room=room)
    return pass_with_room(models, batches, measured)


def _layer_statistics(
    models: Sequence[nn.Module], batches: Batches, *, together: bool, room: int
) -> dict[str, LayerStatistics]:
    with keep_undisturbed(models):
        sites = find_correctable(models[0], first_of(batches)).corrected
        if together:
            return _measure_together(models, sites, batches, room)
        apart = [_measure_one(model, sites, batches) for model in models]
    return {site.name: _statistics([own[site.name] for own in apart], None) for site in sites}


def measure_layer(site: CorrectableLayer, model: nn.Module, batches: Batches) -> Moments:
    """Return the moments of one layer; each pass ends as soon as the layer was reached."""
    return pass_with_room([model], batches, partial(_measure_in_passes, site, model))


def _measure_in_passes(site: CorrectableLayer, model: nn.Module, batches: Batches) -> Moments:
    found: Totals = {}
    calls = 0

    def see(name: str, samples: Tensor) -> None:
        nonlocal calls
        calls += 1
        join(found, name, moments(samples))
        if calls % site.calls == 0:
            raise _ReachedError

    with watch_layers([site], see):
        for batch in batches:
            with contextlib.suppress(_ReachedError):
                call_model(model, batch)
    return found[site.name]


def first_of(batches: Batches) -> Batch:
    """Return the first batch."""
    return next(iter(batches))


def join(totals: dict[str, _Tallied], name: str, found: _Tallied) -> None:
    """Add what was found of a layer to what is known of it."""
    totals[name] = totals[name].joined(found) if name in totals else found


@contextlib.contextmanager
def keep_undisturbed(models: Sequence[nn.Module]) -> Iterator[None]:
    """Run models as they are used: eval mode, no gradients; afterwards all is as it was."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for model in models:
            stack.enter_context(frozen_state(model))
            model.eval()
        yield


def _sites_in(model: nn.Module, *sites: CorrectableLayer) -> list[CorrectableLayer]:
    """Return the sites of one model in another of its class."""
    modules = dict(model.named_modules())
    return [site.moved(modules[site.name]) for site in sites]


def _measure_one(model: nn.Module, sites: Sequence[CorrectableLayer], batches: Batches) -> Totals:
    found: Totals = {}
    with watch_layers(
        _sites_in(model, *sites), lambda name, rows: join(found, name, moments(rows))
    ):
        for batch in batches:
            call_model(model, batch)
    return found


def _measure_together(
    models: Sequence[nn.Module], sites: Sequence[CorrectableLayer], batches: Batches, room: int
) -> dict[str, LayerStatistics]:
    pairs = list(combinations(range(len(models)), 2))
    own: list[Totals] = [{} for _ in models]
    sums: list[Totals] = [{} for _ in pairs]
    crossed: list[dict[str, CrossMoments]] = [{} for _ in pairs]
    for batch in batches:
        seen = [_outputs(_sites_in(model, *sites), model, batch) for model in models]
        whole = _narrowest({n: rows[0].shape[1] for n, rows in seen[0].items()}, len(pairs), room)
        for name in seen[0]:
            rows = [torch.cat(one[name]).double() for one in seen]
            for totals, row in zip(own, rows, strict=True):
                join(totals, name, moments(row))
            for k, (i, j) in enumerate(pairs):
                if name in whole:
                    join(crossed[k], name, cross_moments(rows[i], rows[j]))
                else:
                    join(sums[k], name, moments(rows[i] + rows[j]))
    found = {}
    for name in (site.name for site in sites):
        both = [c[name] if name in c else s[name] for c, s in zip(crossed, sums, strict=True)]
        found[name] = _statistics([totals[name] for totals in own], both)
    return found


def _narrowest(units: Mapping[str, int], pairs: int, room: int) -> set[str]:
    """Return the layers whose units' covariances, of all pairs of models, fit into some room."""
    found, left = set(), room
    for name, number in sorted(units.items(), key=lambda item: item[1]):
        left -= _HELD * pairs * number**2
        if left < 0:
            break
        found.add(name)
    return found


def _outputs(sites: Sequence[CorrectableLayer], model: nn.Module, batch: Batch) -> Samples:
    found: dict[str, list[Tensor]] = {}
    with watch_layers(sites, lambda name, rows: found.setdefault(name, []).append(rows.clone())):
        call_model(model, batch)
    return found


def _statistics(
    own: Sequence[Moments], both: Sequence[Moments | CrossMoments] | None
) -> LayerStatistics:
    """both: of each pair, the moments of the sums of its units, or of all of its units."""
    means, deviations = ([getattr(m, what) for m in own] for what in ("mean", "deviation"))
    known = torch.stack(means), torch.stack(deviations)
    if both is None:
        return LayerStatistics(*known)
    pairs = zip(combinations(own, 2), both, strict=True)
    rows = [_correlation(a, b, found) for (a, b), found in pairs]
    whole = [found.covariance for found in both if isinstance(found, CrossMoments)]
    return LayerStatistics(
        *known,
        torch.stack(rows) if rows else own[0].mean.new_zeros((0, len(own[0].mean))),
        torch.stack(whole) if whole else None,
    )


def _correlation(a: Moments, b: Moments, both: Moments | CrossMoments) -> Tensor:
    """Return how units correlate: what is more than both variances is twice their covariance."""
    if isinstance(both, CrossMoments):
        return both.correlation.diagonal()
    scale = a.deviation * b.deviation
    covariance = (both.variance - a.variance - b.variance) / 2
    return torch.where(scale > 0, covariance / scale, 0.0).clamp(-1, 1)
