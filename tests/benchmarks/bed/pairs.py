"""Pairs of models that benchmarks match: trained apart, or with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.benchmarks.bed.networks import Network
from tests.models.resnet import BASIC, BOTTLENECK, Kind, ResNet

State = Mapping[str, Tensor]

TRAINED_SPECS = {
    "mlp_512x3": "mlp",
    "resnet20_bn_x1": "resnet20-cifar",
    "vit_small": "preln-vit",
    "char_gpt": "preln-gpt",
}
RESIDUAL = """
rebasin: 1
name: residual-mlp
tensors:
  inp.{weight,bias}: [stream]
  blocks.{i}.up.weight: [hidden.{i}, stream]
  blocks.{i}.up.bias: [hidden.{i}]
  blocks.{i}.down.weight: [stream, hidden.{i}]
  blocks.{i}.down.bias: [stream]
  out.weight: [~, stream]
  out.bias: [~]
"""
IMAGE, CLASSES = 784, 10


@dataclass(frozen=True)
class Pair:
    """Two models and the spec of both."""

    reference: State
    other: State
    bound: BoundSpec

    def match(self, settings: Settings) -> Matching:
        return match_weights(
            InMemory(self.reference), InMemory(self.other), self.bound, settings=settings
        )


def trained(network: Network, seeds: tuple[int, int]) -> Pair:
    """Return two of the models that were trained apart."""
    a, b = (load_file(network.path(seed)) for seed in seeds)
    spec = load_spec(network.spec or TRAINED_SPECS[network.name])
    return Pair(a, b, bind(spec, infos(InMemory(a)), sizes=network.sizes))


def perceptrons(width: int, layers: int = 4) -> Pair:
    """Return two random perceptrons 784 - width x layers - 10."""
    make = partial(perceptron, [IMAGE, *[width] * layers, CLASSES])
    return _pair(make, load_spec("mlp"))


def residual_perceptrons(width: int, blocks: int) -> Pair:
    """Return two random residual perceptrons whose blocks are as wide inside as their stream."""
    return _pair(partial(residual_perceptron, width, blocks), residual_spec())


def resnets50() -> Pair:
    """Return two random models with the names and shapes of torchvision's resnet50."""
    return _pair(resnet50, load_spec("resnet-bottleneck"))


def residual_spec() -> Spec:
    return parse(RESIDUAL, source="residual-mlp.yaml")


def perceptron(widths: Sequence[int], seed: int) -> State:
    """Return a perceptron under the names of nn.Sequential, as torch starts one."""
    torch.manual_seed(seed)
    return sequential(widths).state_dict()


def sequential(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers named 0, 2, 4, ... with ReLUs between them."""
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def residual_perceptron(width: int, blocks: int, seed: int) -> State:
    """Return a perceptron whose blocks, of two layers, add to a stream."""
    torch.manual_seed(seed)
    inside = [nn.ModuleDict({k: nn.Linear(width, width) for k in ("up", "down")})
              for _ in range(blocks)]  # fmt: skip
    ends = {"inp": nn.Linear(IMAGE, width), "out": nn.Linear(width, CLASSES)}
    model = nn.ModuleDict({**ends, "blocks": nn.ModuleList(inside)})
    return model.state_dict()


def resnet50(seed: int) -> State:
    return resnet(BOTTLENECK, (3, 4, 6, 3), 64, 1000, seed)


def resnet18(width: int, seed: int) -> State:
    """Return a resnet18 whose first stage is `width` wide, where torchvision's is 64."""
    return resnet(BASIC, (2, 2, 2, 2), width, CLASSES, seed)


def resnet(kind: Kind, depths: Sequence[int], width: int, classes: int, seed: int) -> State:
    """Return a residual network under torchvision's names, as torch starts one."""
    torch.manual_seed(seed)
    model = ResNet(kind, depths, width=width)
    model.fc = nn.Linear((width << len(depths) - 1) * kind.expansion, classes)
    return model.state_dict()


def _pair(make: Callable[[int], State], spec: Spec) -> Pair:
    a, b = make(0), make(1)
    return Pair(a, b, bind(spec, infos(InMemory(a))))
