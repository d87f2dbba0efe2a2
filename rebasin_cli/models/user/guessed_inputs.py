"""Inputs of a model that nobody described, guessed from its layers and tried."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import InputFamily, normal_noise, random_ids

# CIFAR is 32, MNIST 28; a network that takes any side is better seen at 64, where its last maps
# have more than one position.
SIDES = (64, 32, 28, 96, 128, 224, 299)
LENGTHS = (64, 128, 256, 1024)
VOLUMES = (32, 16, 64)
STEPS = ((5,), (7,))
_TRIES = 12
SEQUENCES = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.Transformer)


def guessed_families(model: nn.Module) -> Iterator[InputFamily]:
    """Yield kinds of inputs to try, those of the first layers first.

    Every required argument of `forward` gets a tensor of the same shape.
    """
    vocabulary = _vocabulary(model)
    sequential = any(isinstance(layer, SEQUENCES) for layer in model.modules())
    seen: set[tuple[object, ...]] = set()
    for layer in model.modules():
        for kind, shapes in _inputs(layer, sequential):
            if (kind, *shapes) in seen or len(seen) == _TRIES:
                continue
            seen.add((kind, *shapes))
            yield InputFamily(_caller(model, vocabulary if kind == "ids" else None), shapes)


def _inputs(layer: nn.Module, sequential: bool) -> Iterator[tuple[str, Sequence[tuple[int, ...]]]]:
    """Yield what a layer takes, as shapes without batch; steps stand before or after the batch."""
    any_layer: Any = layer
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        yield "ids", [(7,), (5,), ()]
    elif isinstance(layer, nn.MultiheadAttention):
        yield "noise", [(*step, layer.embed_dim) for step in STEPS]
    elif isinstance(layer, nn.RNNBase):
        yield "noise", [(*step, layer.input_size) for step in STEPS]
    elif isinstance(layer, nn.RNNCellBase):
        yield "noise", [(layer.input_size,)]
    elif isinstance(layer, (nn.Linear, nn.Bilinear)):
        width = any_layer.in_features if isinstance(layer, nn.Linear) else any_layer.in1_features
        flat, steps = [(width,)], [(*step, width) for step in STEPS]
        yield from (
            (("noise", steps), ("noise", flat))
            if sequential
            else (("noise", flat), ("noise", steps))
        )
    elif isinstance(layer, CONVOLUTIONS):
        dimensions = len(any_layer.kernel_size)
        sides = {1: LENGTHS, 2: SIDES, 3: VOLUMES}[dimensions]
        yield "noise", [(layer.in_channels, *[side] * dimensions) for side in sides]
    elif isinstance(layer, nn.LayerNorm):
        yield "noise", [(*step, *layer.normalized_shape) for step in STEPS]
    elif isinstance(layer, NORMS):
        width = getattr(layer, "num_features", None) or any_layer.num_channels
        yield "noise", [(width,), (width, 6), (width, 6, 6), (width, 6, 6, 6)]


CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
)


def _caller(model: nn.Module, vocabulary: int | None) -> Callable[[tuple[int, ...]], Example]:
    """Return how a shape becomes a call: the same kind of tensor for each required argument."""
    positional, keywords = _required(model)

    def tensor(shape: tuple[int, ...], seed: int) -> torch.Tensor:
        return (
            normal_noise(shape, seed)
            if vocabulary is None
            else random_ids(shape, vocabulary, avoid=(0,))
        )

    def call(shape: tuple[int, ...]) -> Example:
        args = tuple(tensor(shape, seed) for seed in range(positional))
        rest = {key: tensor(shape, 100 + place) for place, key in enumerate(keywords)}
        return Example(args, rest)

    return call


def _required(model: nn.Module) -> tuple[int, list[str]]:
    """Return how many positional arguments `forward` needs (at least 1) and which keywords."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [item for item in parameters if item.default is item.empty]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    keywords = [item.name for item in needed if item.kind is item.KEYWORD_ONLY]
    count = sum(item.kind in positional for item in needed)
    return (count if keywords else max(1, count)), keywords


def _vocabulary(model: nn.Module) -> int:
    """Return how many ids every embedding of the model knows."""
    tables = [
        layer.num_embeddings
        for layer in model.modules()
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
    ]
    return min(tables, default=2)
