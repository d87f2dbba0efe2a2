"""Pruning by magnitude: exactly the smallest go, as sorting all of them together says."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.commands.prune import thresholds as pruning
from rebasin_cli.commands.prune.thresholds import (
    METHODS,
    Threshold,
    Zeroed,
    global_thresholds,
    layer_thresholds,
)
from rebasin_cli.tensors import InMemory

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# few different values, so that most sets hold ties; and both zeros
VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-7]), st.floats(-4, 4, width=32)
)


@st.composite
def models(draw):
    """Return tensors of some shapes and dtypes, with many equal magnitudes."""
    count = draw(st.integers(1, 4))
    tensors = {}
    for number in range(count):
        shape = (draw(st.integers(0, 4)), draw(st.integers(1, 5)))
        size = shape[0] * shape[1]
        values = draw(st.lists(VALUES, min_size=size, max_size=size))
        dtype = draw(st.sampled_from(DTYPES))
        tensors[f"t{number}"] = torch.tensor(values, dtype=torch.float64).reshape(shape).to(dtype)
    return tensors


def sorted_out(tensors, sparsity):
    """Return which weights of all tensors stay, as a stable sort with numpy says."""
    flat = np.concatenate([t.double().abs().numpy().reshape(-1) for t in tensors.values()])
    kept = np.ones(len(flat), dtype=bool)
    kept[np.argsort(flat, kind="stable")[: round(sparsity * len(flat))]] = False
    return kept


def kept_by(thresholds, tensors):
    return np.concatenate([thresholds[n].keeps(t).numpy().reshape(-1) for n, t in tensors.items()])


@settings(max_examples=200, deadline=None)
@given(models(), st.floats(0.01, 0.99))
def test_the_smallest_of_all_go_and_of_equals_the_first(tensors, sparsity):
    thresholds = global_thresholds(InMemory(tensors), list(tensors), sparsity)
    assert np.array_equal(kept_by(thresholds, tensors), sorted_out(tensors, sparsity))


@settings(max_examples=100, deadline=None)
@given(models(), st.floats(0.01, 0.99))
def test_by_layers_the_smallest_of_each_tensor_go(tensors, sparsity):
    thresholds = layer_thresholds(InMemory(tensors), list(tensors), sparsity)
    for name, tensor in tensors.items():
        assert np.array_equal(
            kept_by(thresholds, {name: tensor}), sorted_out({name: tensor}, sparsity)
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_pieces_give_what_one_does(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    tensors = {n: torch.randn(40, 25, generator=generator).to(dtype) for n in "ab"}
    expected = sorted_out(tensors, 0.8)
    monkeypatch.setattr(pruning, "CHUNK", 7)
    thresholds = global_thresholds(InMemory(tensors), list(tensors), 0.8)
    assert np.array_equal(kept_by(thresholds, tensors), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_threshold_is_the_magnitude_of_the_last_that_goes(dtype):
    tensor = torch.tensor([[0.25, -3.0, 1.5, -0.5]], dtype=dtype)
    threshold = global_thresholds(InMemory({"w": tensor}), ["w"], 0.5)["w"]
    assert threshold.magnitude == 0.5


def test_nothing_else_changes_and_zeros_keep_no_sign():
    tensors = {"w": torch.tensor([[-0.1, 2.0], [3.0, -4.0]]), "b": torch.tensor([-0.0, 0.1])}
    pruned = Zeroed(InMemory(tensors), global_thresholds(InMemory(tensors), ["w"], 0.5))
    assert pruned.load("b") is tensors["b"]
    assert torch.equal(pruned.load("w"), torch.tensor([[0.0, 0.0], [3.0, -4.0]]))
    assert not torch.signbit(pruned.load("w")[0]).any()


def test_a_share_of_less_than_half_a_weight_removes_nothing():
    tensors = {"w": torch.zeros(2, 3)}
    assert global_thresholds(InMemory(tensors), ["w"], 0.05)["w"].keeps(tensors["w"]).all()


class Counting(InMemory):
    """A source that knows how many of the tensors it gave out are still in memory."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.alive, self.most = 0, 0

    def load(self, name):
        tensor = super().load(name).clone()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor, self._gone)
        return tensor

    def _gone(self):
        self.alive -= 1


@pytest.mark.parametrize("method", METHODS)
def test_one_tensor_at_a_time_is_in_memory(method):
    source = Counting({f"t{k}": torch.randn(8, 8) for k in range(6)})
    thresholds = METHODS[method](source, list(source.names()), 0.8)
    pruned = Zeroed(source, thresholds)
    for name in source.names():
        pruned.load(name)
    assert source.most <= 2
    assert source.alive == 0


def test_a_threshold_keeps_an_empty_tensor():
    assert Threshold(0, 0, 32).keeps(torch.zeros(0, 3)).shape == (0, 3)
