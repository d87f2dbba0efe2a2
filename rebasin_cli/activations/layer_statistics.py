"""What the units of each layer do on data, as one value that can be written to a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from rebasin_cli.errors import CheckpointError


@dataclass(frozen=True)
class Goal:
    """What n units of a layer should do: float64.

    mean, deviation: weighted means of the parents' ones. expected: the deviation of the average of
    the parents' outputs, from their correlations; None where those are not known.
    """

    mean: Tensor
    deviation: Tensor
    expected: Tensor | None = None

    def averaged(self) -> Goal:
        """Return one target for all units of the layer: the mean's sign stays with the unit."""
        mean = self.mean.abs().mean() * self.mean.sign()
        return replace(self, mean=mean, deviation=self.deviation.mean().expand_as(self.deviation))

    def on(self, device: torch.device) -> Goal:
        """Return the goal on a device."""
        expected = None if self.expected is None else self.expected.to(device)
        return Goal(self.mean.to(device), self.deviation.to(device), expected)

    def times(self, factor: float) -> Goal:
        """Return the goal with deviations multiplied."""
        return replace(self, deviation=self.deviation * factor)


_NAME = re.compile(
    r"layer\.(?P<layer>.*)\.(?P<kind>mean|deviation|correlation|covariance)"
    r"\.(?P<which>[0-9]+(\.[0-9]+)?)"
)


@dataclass(frozen=True)
class LayerStatistics:
    """What the n units of one layer do in several models, on the same samples; float64.

    means, deviations: (models, n). correlations: (pairs, n), of each unit in two models, the pairs
    in the order of `combinations`; None where the models were not measured together. covariances:
    (pairs, n, n), of all units of one with all of the other: what correlates after one of them is
    put in another order; None where they are not known.
    """

    means: Tensor
    deviations: Tensor
    correlations: Tensor | None = None
    covariances: Tensor | None = None

    def goal(self, weights: Sequence[float]) -> Goal:
        """Return what their average should do; weights: one for each model, they add up to 1."""
        shares = torch.tensor(weights, dtype=torch.float64, device=self.means.device)
        return Goal(shares @ self.means, shares @ self.deviations, self._expected(shares))

    def _expected(self, shares: Tensor) -> Tensor | None:
        """Return the deviation of sum(weight * output)."""
        if self.correlations is None:
            return None
        parts = shares[:, None] * self.deviations
        variance = parts.square().sum(0)
        for (i, j), correlation in zip(
            combinations(range(len(parts)), 2), self.correlations, strict=True
        ):
            variance = variance + 2 * correlation * parts[i] * parts[j]
        return variance.clamp(min=0).sqrt()


def goals(known: Mapping[str, LayerStatistics], weights: Sequence[float]) -> dict[str, Goal]:
    """Return the goal of every layer; weights need not add up to 1, their ratios count."""
    shares = [weight / sum(weights) for weight in weights]
    return {name: statistics.goal(shares) for name, statistics in known.items()}


def layer_tensors(known: Mapping[str, LayerStatistics]) -> dict[str, Tensor]:
    """Return tensors by name: `layer.NAME.mean.0`, and for a pair `layer.NAME.covariance.0.1`.

    Where that is not known: `layer.NAME.correlation.0.1`.
    """
    found: dict[str, Tensor] = {}
    for layer, one in known.items():
        models = range(len(one.means))
        found |= {f"layer.{layer}.mean.{k}": one.means[k] for k in models}
        found |= {f"layer.{layer}.deviation.{k}": one.deviations[k] for k in models}
        kind = "correlation" if one.covariances is None else "covariance"
        pairs = one.correlations if one.covariances is None else one.covariances
        if pairs is not None:
            names = [f"layer.{layer}.{kind}.{i}.{j}" for i, j in combinations(models, 2)]
            found |= dict(zip(names, pairs, strict=True))
    return found


def from_flat(tensors: Mapping[str, Tensor]) -> dict[str, LayerStatistics]:
    """Return what `layer_tensors` was given; tensors with other names are left out.

    Raises CheckpointError where tensors of a layer are missing.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = layer_tensor(name)
        if found:
            own = layers.setdefault(found.layer, {})
            own[f"{found.kind}.{'.'.join(map(str, found.models))}"] = tensor.to(torch.float64)
    return {layer: _statistics_of_layer(layer, own) for layer, own in layers.items()}


@dataclass(frozen=True)
class LayerTensor:
    """What a tensor of a file of statistics is. models: the one, or the two, that it tells of."""

    layer: str
    kind: str
    models: tuple[int, ...]


def layer_tensor(name: str) -> LayerTensor | None:
    """Return what a name stands for; None: for nothing about a layer."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return LayerTensor(found["layer"], found["kind"], tuple(map(int, found["which"].split("."))))


def _statistics_of_layer(layer: str, own: Mapping[str, Tensor]) -> LayerStatistics:
    models = range(1 + max(int(number) for key in own for number in key.split(".")[1:]))
    pairs = list(combinations(models, 2))
    try:
        means = torch.stack([own[f"mean.{k}"] for k in models])
        deviations = torch.stack([own[f"deviation.{k}"] for k in models])
        correlations = [_pair_correlations(own, deviations, *pair) for pair in pairs]
        known = [one for one in correlations if one is not None]
        stacked = torch.stack(known) if known else means.new_zeros((0, means.shape[1]))
        if known and len(known) < len(pairs):
            raise KeyError("correlation")
        crossed = [own[key] for key in (f"covariance.{i}.{j}" for i, j in pairs) if key in own]
        return LayerStatistics(
            means,
            deviations,
            stacked if known or not pairs else None,
            torch.stack(crossed) if crossed and len(crossed) == len(pairs) else None,
        )
    except (KeyError, RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"the statistics of layer {layer!r} are not complete",
            detail=f"found: {', '.join(sorted(own))}",
            hint="write them anew with rebasin statistics",
        ) from error


def _pair_correlations(
    own: Mapping[str, Tensor], deviations: Tensor, i: int, j: int
) -> Tensor | None:
    """Return how the units of two models correlate, None if nothing tells of the two."""
    covariance = own.get(f"covariance.{i}.{j}")
    if covariance is None:
        return own.get(f"correlation.{i}.{j}")
    scale = deviations[i] * deviations[j]
    return torch.where(scale > 0, covariance.diagonal() / scale, 0.0)
