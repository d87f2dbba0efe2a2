"""Biases of a merged model that has no data: they shrink as fast as the features beside them do.

An average of weights gives smaller features, layer after layer, while each bias is averaged once;
so biases come to dominate. They are calibrated by the weights that lie between the input and them.

In a ReLU network without norms, all weights times c and each bias at depth h times c^h scale what
is at depth h by c^h. Averaging unrelated parents is, for features, about such a scaling by their
share; so biases are given the share^h that their features have. Logits shrink as well: the
classes chosen stay, the confidence does not. VGG16 on CIFAR-10 (published): 10.5 to 83.8 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from rebasin_cli.renormalization.unit_flow import layer_units, paths_of, unclear_flow
from rebasin_cli.spec.binding.axis_sides import MATRIX
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import RUNNING_STATISTICS, TensorSource
from rebasin_cli.tensors.blocks import BoundTensor

Paths = Mapping[str, Sequence[str]]  # bias -> the weights up to it, its layer's the last
BiasCalibration = Callable[[Sequence[TensorSource], Sequence[float], Paths], dict[str, Tensor]]


def by_depth(
    parents: Sequence[TensorSource], weights: Sequence[float], paths: Paths
) -> dict[str, Tensor]:
    """Return sum(share^h bias) at depth h, in float64; share: of a parent in the sum of weights.

    Features of the parents are taken to be unrelated: of two they shrink by a half in each layer.
    Source: homogeneous normalisation, "Vanishing Feature" (arXiv 2402.05966), `bias_norm`.
    Deviations: any number of models, and depths counted along branches.
    """
    shares = _shares(weights)

    def calibrated(name: str) -> Tensor:
        return _sum(parents, [share ** len(paths[name]) for share in shares], name)

    return {name: calibrated(name) for name in paths}


def by_weights(
    parents: Sequence[TensorSource], weights: Sequence[float], paths: Paths
) -> dict[str, Tensor]:
    """Return the mean bias times, for each weight before its layer, how much shorter its mean is.

    That is |sum(share W)| / sum(share |W|): 1 where the parents agree, so that the mean of equal
    models stays as it is; 0.71 for two that have nothing in common. In float64.
    Ours: share^h (`by_depth`) takes all features to be unrelated, whatever was aligned, and costs
    3 points more on a network of ten convolutions. The weight of the bias's own layer does not
    count: averaging it is done to the bias as well.
    """
    shares = _shares(weights)
    needed = dict.fromkeys(weight for path in paths.values() for weight in path[:-1])
    factors = {name: _length_ratio(parents, shares, name) for name in needed}

    def calibrated(name: str) -> Tensor:
        return _sum(parents, shares, name) * prod(factors[weight] for weight in paths[name][:-1])

    return {name: calibrated(name) for name in paths}


CALIBRATIONS: Mapping[str, BiasCalibration] = {"weights": by_weights, "depth": by_depth}


def _shares(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def _sum(parents: Sequence[TensorSource], factors: Sequence[float], name: str) -> Tensor:
    pairs = zip(parents, factors, strict=True)
    return torch.stack([source.load(name).double() * factor for source, factor in pairs]).sum(0)


def _length_ratio(parents: Sequence[TensorSource], shares: Sequence[float], name: str) -> float:
    lengths = [float(source.load(name).double().norm()) for source in parents]
    whole = sum(share * length for share, length in zip(shares, lengths, strict=True))
    return float(_sum(parents, shares, name).norm()) / whole if whole else 1.0


def paths_in_spec(bound: BoundSpec) -> dict[str, tuple[str, ...]]:
    """Return the weights up to every bias that a spec shows: the fewest that lead to its layer.

    That activations are ReLU-like a spec cannot show: it is assumed. Raises UsageError where the
    spec shows that the network has norms, or does not show what a layer reads.
    """
    weights = {_stem(t): t for t in bound.tensors if len(t.shape) >= MATRIX}
    biases = [name for t in bound.tensors if len(t.shape) < MATRIX for name in t.members]
    _refuse([*biases, *bound.untouched], bound)
    found = paths_of(
        {stem: layer_units(stem, tensor, bound.transposed) for stem, tensor in weights.items()}
    )
    stems = {layer: tensor.members[0] for layer, tensor in weights.items()}
    paths = {name: found[name.rpartition(".")[0]] for name in biases}
    return {name: tuple(stems[layer] for layer in path) for name, path in paths.items()}


def _stem(tensor: BoundTensor) -> str:
    return tensor.members[0].rpartition(".")[0]


def _refuse(names: Sequence[str], bound: BoundSpec) -> None:
    """Raise UsageError for vectors that are not biases of a layer."""
    matrices = [tensor for tensor in bound.tensors if len(tensor.shape) >= MATRIX]
    named = Counter(map(_stem, matrices))
    wrong = [f"{n} is a statistic of a norm" for n in names if n.endswith(RUNNING_STATISTICS)]
    wrong += [
        f"{name} is not the bias of a layer"
        for name in names
        if name.rpartition(".")[0] not in named and not name.endswith(RUNNING_STATISTICS)
    ]
    wrong += [f"{stem} has several matrices" for stem, count in named.items() if count > 1]
    wrong += [
        f"{tensor.members[0]} is not the weight of a layer"
        for tensor in matrices
        if not tensor.members[0].endswith("weight") or tensor.stacked
    ]
    if wrong:
        raise unclear_flow(wrong)
