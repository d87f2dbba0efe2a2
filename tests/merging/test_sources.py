"""Models computed as they are read: which tensors are mixed, and which are the reference's."""

import pytest
import torch

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.merging.mean import lerp, slerp, weighted_mean
from rebasin_cli.merging.sources import Between, Finite, Mean
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.numbers import all_finite
from rebasin_cli.tensors.ranges import Kept, ranges_of


def model(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return InMemory(
        {
            "w": torch.randn(3, 4, generator=generator).to(dtype),
            "b": torch.randn(3, generator=generator).to(dtype),
            "steps": torch.tensor(seed),
            "mask": torch.rand(3, generator=generator) < 0.5,
            "wide": torch.randn(2, generator=generator, dtype=torch.float64),
        }
    )


MODELS = [model(seed) for seed in (1, 2, 3)]
WEIGHTS = [1.0, 2.0, -0.5]


def everything(name):
    return True


def mean(reference=0, selects=everything):
    return Mean(MODELS, WEIGHTS, reference, selects)


def between(alpha=0.25, mode="linear", selects=everything):
    return Between((MODELS[0], MODELS[1]), alpha, mode, selects)


@pytest.mark.parametrize("name", ["w", "b", "wide"])
def test_a_floating_tensor_of_a_mean_is_the_weighted_mean(name):
    expected = weighted_mean([m.load(name) for m in MODELS], WEIGHTS)
    assert torch.equal(mean().load(name), expected)


@pytest.mark.parametrize("name", ["steps", "mask"])
def test_integers_of_a_mean_are_those_of_the_model_with_the_largest_weight(name):
    assert mean().load(name) is MODELS[1].load(name)


@pytest.mark.parametrize("reference", [0, 2])
@pytest.mark.parametrize("name", ["steps", "mask"])
def test_of_equal_weights_that_of_the_reference_counts(name, reference):
    found = Mean(MODELS, [1.0, 1.0, 1.0], reference, everything)
    assert found.load(name) is MODELS[reference].load(name)


@pytest.mark.parametrize("reference", [0, 2])
def test_tensors_that_a_mean_leaves_out_are_those_of_the_reference(reference):
    found = mean(reference, selects=lambda name: name != "b")
    assert found.load("b") is MODELS[reference].load("b")
    assert torch.equal(found.load("w"), mean().load("w"))


def test_a_mean_keeps_float64():
    assert mean().load("wide").dtype == torch.float64


def test_a_mean_of_narrow_tensors_is_loaded_in_float32():
    narrow = [model(seed, torch.bfloat16) for seed in (1, 2)]
    assert Mean(narrow, [1.0, 1.0], 0, everything).load("w").dtype == torch.float32


def test_a_mean_has_the_headers_of_the_reference():
    narrow = [model(1), model(2, torch.float16)]
    found = Mean(narrow, [1.0, 1.0], 1, everything)
    assert found.names() == narrow[1].names()
    assert found.info("w") == narrow[1].info("w")


@pytest.mark.parametrize(("mode", "path"), [("linear", lerp), ("slerp", slerp)])
@pytest.mark.parametrize("name", ["w", "b", "wide"])
def test_a_floating_tensor_between_two_models_lies_on_the_path(mode, path, name):
    a, b = (m.load(name) for m in MODELS[:2])
    assert torch.equal(between(0.25, mode).load(name), path(a, b, 0.25))


@pytest.mark.parametrize(("alpha", "nearest"), [(0.0, 0), (0.5, 0), (0.75, 1), (1.0, 1)])
@pytest.mark.parametrize("name", ["steps", "mask"])
def test_integers_between_two_models_are_those_of_the_nearest(name, alpha, nearest):
    assert between(alpha).load(name) is MODELS[nearest].load(name)


def test_tensors_that_a_path_leaves_out_are_those_of_the_first_model():
    found = between(0.75, selects=lambda name: name != "b")
    assert found.load("b") is MODELS[0].load("b")
    assert torch.equal(found.load("w"), between(0.75).load("w"))


@pytest.mark.parametrize("mode", ["linear", "slerp"])
def test_a_path_begins_at_one_model_and_ends_at_the_other(mode):
    for name in ("w", "b", "wide"):
        assert torch.equal(between(0.0, mode).load(name), MODELS[0].load(name))
        assert torch.equal(between(1.0, mode).load(name), MODELS[1].load(name))


def test_a_path_has_the_headers_of_the_first_model():
    ends = model(1), model(2, torch.float16)
    found = Between(ends, 0.5, "linear", everything)
    assert found.names() == ends[0].names()
    assert found.info("w") == ends[0].info("w")


def in_ranges(source, name, step=5):
    """Return a tensor put together of its ranges."""
    read, info = ranges_of(source, name), source.info(name)
    assert read is not None
    flat = [read(k, min(k + step, info.numel)) for k in range(0, info.numel, step)]
    return torch.cat(flat).reshape(info.shape)


@pytest.mark.parametrize("name", MODELS[0].names())
def test_a_mean_in_ranges_is_that_of_the_whole(name):
    kept = Mean([Kept(model) for model in MODELS], WEIGHTS, 0, everything)
    assert torch.equal(in_ranges(kept, name), mean().load(name))


@pytest.mark.parametrize("name", MODELS[0].names())
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_a_line_in_ranges_is_that_of_the_whole(name, alpha):
    ends = (Kept(MODELS[0]), Kept(MODELS[1]))
    line = Between(ends, alpha, "linear", everything)
    assert torch.equal(in_ranges(line, name), between(alpha).load(name))


def test_what_needs_whole_tensors_has_no_ranges():
    kept = [Kept(model) for model in MODELS]
    assert ranges_of(Between((kept[0], kept[1]), 0.5, "slerp", everything), "w") is None
    assert ranges_of(Mean([*kept[:2], MODELS[2]], WEIGHTS, 0, everything), "w") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_noticed_in_its_range(value):
    source = Kept(InMemory({"w": torch.tensor([1.0, 2.0, value, 4.0])}))
    read = ranges_of(Finite(source, "a.pt", "", everything), "w")
    assert read is not None
    assert read(0, 2).tolist() == [1, 2]
    with pytest.raises(NotFiniteError, match="tensor 'w' holds NaN or infinity"):
        read(2, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_values_whose_sum_is_not_are_finite(dtype):
    large = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    assert not large.sum().isfinite()
    assert all_finite(large)
    for value in (float("nan"), float("inf")):
        assert not all_finite(torch.cat([large, torch.tensor([value, -value], dtype=dtype)]))


def test_what_is_kept_is_loaded_once():
    asked = []

    class Asked(InMemory):
        def load(self, name):
            asked.append(name)
            return super().load(name)

    kept = Kept(Asked({"w": torch.ones(3)}))
    assert kept.load("w") is kept.load("w")
    assert kept.ranged("w")(1, 3).tolist() == [1, 1]
    assert asked == ["w"]
