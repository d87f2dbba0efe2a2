"""A model that is run with other numbers: what counts as moved, and that it is as before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.permutation import Permutation
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Block, Dim
from rebasin_cli.tensors.compare import ACCEPTED
from rebasin_cli.tracer.proof.proof import Trial
from tests.tracer.traps import Net, noise, rows

WHOLE = {"w": [Block(0, (Dim(8, 1),))]}
FLIPPED = {"g": Permutation(torch.arange(8).flip(0))}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def trial(run: Callable[..., Any], *inputs: Tensor) -> Trial:
    """Return a model of the numbers 1 to 8, ready to be run."""
    net = Net(run, w=nn.Parameter(torch.arange(1.0, 9.0, dtype=torch.float64)))
    return Trial(net, [((x.double(),), {}) for x in inputs], ["output"])


def bound() -> BoundSpec:
    spec = parse("rebasin: 1\ngroups:\n  g: {one-sided: true}\ntensors:\n  w: [g]\n")
    return bind(spec, {"w": TensorInfo("w", (8,), torch.float64)})


@pytest.mark.parametrize(
    "change",
    [
        lambda tried: not tried.ignores(WHOLE),
        lambda tried: tried.notices(["w"]),
        lambda tried: tried.difference(bound(), FLIPPED) > ACCEPTED,
    ],
    ids=["ignores", "notices", "difference"],
)
def test_changing_numbers_is_noticed_and_undone(change: Callable[[Trial], bool]) -> None:
    tried = trial(lambda m, x: x * m.w, noise(2, 8))
    assert change(tried)
    assert dict(tried._model.named_parameters())["w"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: (m.w[:1] > 4) & (x[0] == x[0]),
        lambda m, x: x * (4.5 - m.w[0]).sqrt(),
        lambda m, x: x[: int(m.w[0])],
    ],
    ids=["whole numbers", "no numbers", "another shape"],
)
def test_what_cannot_be_measured_has_moved(run: Callable[..., Any]) -> None:
    assert trial(run, noise(3, 8)).difference(bound(), FLIPPED) == math.inf


def test_the_order_of_a_sum_moves_nothing() -> None:
    assert trial(lambda m, x: x * m.w.sum(), noise(2, 8)).difference(bound(), FLIPPED) == 0


def test_a_number_that_one_draw_leaves_on_its_side_is_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signs = [trial(lambda m, x, k=k: x * (m.w[k] > 0), noise(2, 8)) for k in range(8)]

    def left() -> list[int]:
        return [k for k, tried in enumerate(signs) if tried.ignores(WHOLE)]

    thorough = left()
    monkeypatch.setattr("rebasin_cli.tracer.proof.proof.DRAWS", 1)
    assert set(thorough) < set(left())


@pytest.mark.parametrize("order", [1, -1])
def test_slopes_are_those_of_each_input(order: int) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return x * (m.w[:4] if len(x) == 2 else m.w[4:]).sum()

    inputs = [noise(2, 8), noise(3, 8)][::order]
    first, second = (found["w"] != 0 for found in trial(run, *inputs).slopes(["w"]))
    assert bool((first ^ second).all())


@pytest.mark.parametrize("order", [1, -1])
def test_what_the_smallest_input_tells_is_not_asked_of_others(order: int) -> None:
    seen: list[int] = []

    def run(m: Any, x: Tensor) -> Tensor:
        seen.append(len(x))
        return x * m.w

    tried = trial(run, *[noise(2, 8), noise(3, 8)][::order])
    seen.clear()
    assert not tried.keeps(bound(), FLIPPED)
    assert tried.notices(["w"])
    assert not tried.ignores(WHOLE)
    assert next(tried.slopes(["w"])).keys() == {"w"}
    assert seen == [2, 2, 2, 2]


def test_what_the_smallest_input_does_not_tell_is_asked_of_others() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return x if len(x) == 2 else x * m.w

    tried = trial(run, noise(2, 8), noise(3, 8))
    assert tried.notices(["w"])
    assert not tried.keeps(bound(), FLIPPED)
    assert not tried.ignores(WHOLE)


@pytest.mark.parametrize("held", [math.nan, math.inf, 1e30])
def test_parameters_that_a_class_leaves_to_checkpoints_are_made_anew(held: float) -> None:
    # `torch.empty`, as of the experts of some models: whatever the memory held, NaN at times.
    empty = nn.Parameter(torch.tensor([held, -held, 0, held, 0, 0, 0, 0]))
    tried = Trial(Net(lambda m, x: x * m.w, w=empty), [((noise(2, 8),), {})], ["output"])
    assert tried.doubt() is None
    assert 0 < float(empty.std()) < 1


def test_an_output_of_factors_that_stay_is_compared_as_it_is() -> None:
    # Their sizes are another matter in each call, and of two of them neither follows.
    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        read = m.a(x)
        kept = m.b(x).relu().unflatten(1, (3, 2)) * read.unflatten(1, (2, 3)).sum(1)[..., None]
        return torch.cat([read, read], 1), m.c(kept.flatten(1))

    net = Net(run, a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=nn.Linear(6, 4))
    found = rows(net, 2, 5).traced()
    assert found.proof is not None and found.proof.holds
    assert [g.shape for g in found.bound.groups.values() if not g.fixed] == [(3, 2)]
