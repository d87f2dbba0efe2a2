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
    r"layer\.(?P<layer>.*)\.(?P<kind>mean|deviation|correlation)\.(?P<which>[0-9.]+)"
)


@dataclass(frozen=True)
class LayerStatistics:
    """What the n units of one layer do in several models, on the same samples; float64.

    means, deviations: (models, n). correlations: (pairs, n), of each unit in two models, the pairs
    in the order of `combinations`; None where the models were not measured together.
    """

    means: Tensor
    deviations: Tensor
    correlations: Tensor | None = None

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


def flat(known: Mapping[str, LayerStatistics]) -> dict[str, Tensor]:
    """Return vectors by name: `layer.NAME.mean.0`, `layer.NAME.correlation.0.1` and so on."""
    found: dict[str, Tensor] = {}
    for layer, one in known.items():
        models = range(len(one.means))
        found |= {f"layer.{layer}.mean.{k}": one.means[k] for k in models}
        found |= {f"layer.{layer}.deviation.{k}": one.deviations[k] for k in models}
        if one.correlations is not None:
            names = [f"layer.{layer}.correlation.{i}.{j}" for i, j in combinations(models, 2)]
            found |= dict(zip(names, one.correlations, strict=True))
    return found


def from_flat(tensors: Mapping[str, Tensor]) -> dict[str, LayerStatistics]:
    """Return what `flat` was given; tensors with other names are left out.

    Raises CheckpointError where vectors of a layer are missing.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found:
            own = layers.setdefault(found["layer"], {})
            own[f"{found['kind']}.{found['which']}"] = tensor.to(torch.float64)
    return {layer: _assembled(layer, own) for layer, own in layers.items()}


def _assembled(layer: str, own: Mapping[str, Tensor]) -> LayerStatistics:
    models = range(sum(key.startswith("mean.") for key in own))
    pairs = list(combinations(models, 2))
    together = any(key.startswith("correlation.") for key in own) or not pairs
    try:
        means = torch.stack([own[f"mean.{k}"] for k in models])
        deviations = torch.stack([own[f"deviation.{k}"] for k in models])
        cross = [own[f"correlation.{i}.{j}"] for i, j in pairs] if together else []
        stacked = torch.stack(cross) if cross else means.new_zeros((0, means.shape[1]))
        return LayerStatistics(means, deviations, stacked if together else None)
    except (KeyError, RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"the statistics of layer {layer!r} are not complete",
            detail=f"found: {', '.join(sorted(own))}",
            hint="write them anew with rebasin statistics",
        ) from error
