"""Loss and accuracy of the trained networks, by the evaluate.py that lies beside them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.benchmarks.bed.networks import FOLDER, Network

State = Mapping[str, Tensor]
SAMPLE = 500  # inputs on which outputs are compared in float64


@dataclass(frozen=True)
class Judged:
    """Cross-entropy in nats and the share of right answers, on the test sample."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Line:
    """Models on the line between two: how far the loss rises above its chord, and the middle."""

    barrier: float
    middle: Judged


@cache
def evaluation() -> ModuleType:
    """Return evaluate.py, imported by its path."""
    torch.set_num_threads(1)  # on a shared machine threads wait for each other
    sys.path.append(str(FOLDER))  # where it finds models.py
    spec = importlib.util.spec_from_file_location("evaluate", FOLDER / "evaluate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state_of(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def judge(network: Network, state: State, *, reset: bool = False) -> Judged:
    """Return how a model does; reset: with its BatchNorm statistics measured anew."""
    tools = evaluation()
    model = tools.load(network.name, dict(state))
    if reset:
        tools.reset_bn(model)
    return Judged(*tools.evaluate(model, network.name))


def walk(
    network: Network,
    ends: tuple[State, State],
    judged: tuple[Judged, Judged],
    points: int,
    *,
    reset: bool = False,
) -> Line:
    """Return the line between two models; points: with both ends, odd. judged: of the ends.

    reset: with BatchNorm statistics measured anew at every point between the ends.
    """
    a, b = ends
    rows = {}
    for k in range(1, points - 1):
        t = k / (points - 1)
        rows[t] = judge(network, mixed(a, b, t), reset=reset)
    first, last = judged[0].loss, judged[1].loss
    rises = [row.loss - ((1 - t) * first + t * last) for t, row in rows.items()]
    return Line(max(0.0, *rises), rows[0.5])


def mixed(a: State, b: State, t: float) -> dict[str, Tensor]:
    """Return (1 - t) a + t b; integers are those of a."""
    return {
        name: torch.lerp(value, b[name], t) if value.is_floating_point() else value
        for name, value in a.items()
    }


@torch.no_grad()
def difference(network: Network, a: State, b: State) -> float:
    """Return the largest difference of two models' outputs in float64."""
    tools = evaluation()
    inputs = tools.test_set(network.name)[0][:SAMPLE]
    inputs = inputs.double() if inputs.is_floating_point() else inputs[: SAMPLE // 10]
    one, two = (tools.load(network.name, dict(state)).double()(inputs) for state in (a, b))
    return float((one - two).abs().max())


def objective(states: Sequence[State]) -> float:
    """Return the sum over pairs of models of their inner products, in float64.

    Over all floating tensors that are not running statistics.
    """
    return sum(
        float(a[name].double().flatten() @ b[name].double().flatten())
        for a, b in combinations(states, 2)
        for name in voting(a)
    )


def square(state: State) -> float:
    """Return the squared norm over the tensors that count in the objective."""
    return sum(float(state[name].double().square().sum()) for name in voting(state))


def distance(a: State, b: State) -> float:
    """Return |a - b| over the tensors that count in the objective, in float64."""
    squares = (float((a[name].double() - b[name].double()).square().sum()) for name in voting(a))
    return sum(squares) ** 0.5


def voting(state: State) -> list[str]:
    return [name for name, v in state.items() if v.is_floating_point() and "running" not in name]
