"""Models of a file run and moved, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.library.single_files.composed import Component, composed

State = dict[str, Tensor]


def randomised(model: nn.Module) -> nn.Module:
    """Return a model in float64 whose parameters are all random."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def moved(spec: str, file: Mapping[str, Tensor], sizes: Mapping[str, int]) -> State:
    """Return a file with every group of its spec in another order."""
    source = InMemory(dict(file))
    bound = bind(load_spec(spec), infos(source), sizes=sizes)
    assert bound.untouched == ()
    orders = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(3))
    permuted = Permuted(source, bound.tensors, orders)
    return {name: permuted.load(name).contiguous() for name in file}


def answers(components: Mapping[str, Component], model: nn.Module) -> list[Tensor]:
    """Return all outputs of the models in a file, in one order."""
    example = composed("file", components).examples(model)[0]
    with torch.no_grad():
        return list(_tensors(model(**_double(dict(example.kwargs)))))


def largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return by how much outputs differ, each in units of its largest number."""
    pairs = zip(before, after, strict=True)
    return max(float((one - two).abs().max() / one.abs().max()) for one, two in pairs)


def _double(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _double(inner) for key, inner in value.items()}
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _tensors(inner)
