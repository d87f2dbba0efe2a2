"""Every way to combine models, against its formula written out in loops over numpy numbers."""

import itertools
import weakref

import numpy as np
import pytest
import torch

from rebasin_cli.errors import UsageError
from rebasin_cli.merging.combination import COMBINATIONS, FROM_BASE, Combination
from rebasin_cli.merging.combined import combine_models
from rebasin_cli.merging.deltas import Delta, drop_at_random
from rebasin_cli.merging.mean import slerp
from rebasin_cli.merging.weights import TensorWeights, expand_ranges
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.ranges import ranges_in_memory
from tests.merging.tuned import draw_models

WEIGHTS = (1.0, 0.5, -0.25)


def combined(sources, weights, name="w", **how):
    combination = Combination(**how)
    reference = len(sources) - 1 if combination.from_base else 0
    weights = weights if isinstance(weights, TensorWeights) else TensorWeights(weights)
    return combine_models(sources, reference, weights, combination, lambda _: True).load(name)


def deltas(sources):
    *models, base = (source.load("w").double().numpy() for source in sources)
    return base, [model - base for model in models]


def trimmed(delta, density):
    least = sorted(abs(delta.ravel()))[-max(1, round(density * delta.size))]
    return np.where(abs(delta) < least, 0, delta)


def elected(each, weights):
    """Return at each place the mean of those that agree with the sign of the sum."""
    found = np.zeros_like(each[0])
    for place in np.ndindex(found.shape):
        values = [w * delta[place] for w, delta in zip(weights, each, strict=True)]
        pairs = [(v, abs(w)) for v, w in zip(values, weights, strict=True) if v * sum(values) > 0]
        if pairs:
            found[place] = sum(v for v, _ in pairs) / sum(w for _, w in pairs)
    return found


def test_task_arithmetic_adds_the_differences():
    sources = draw_models()
    base, each = deltas(sources)
    expected = base + 0.4 * sum(w * d for w, d in zip(WEIGHTS, each, strict=True))
    found = combined(sources, WEIGHTS, combine="task-arithmetic", scale=0.4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_ties_trims_elects_and_averages(density):
    sources = draw_models()
    base, each = deltas(sources)
    kept = [trimmed(delta, density) for delta in each]
    found = combined(sources, WEIGHTS, combine="ties", density=density, scale=0.7)
    np.testing.assert_allclose(found, base + 0.7 * elected(kept, WEIGHTS), rtol=1e-12)


def test_where_differences_cancel_no_sign_is_elected():
    sources = [InMemory({"w": torch.tensor([value])}) for value in (3.0, 1.0, 2.0)]
    assert combined(sources, (1.0, 1.0), combine="ties", density=1.0).tolist() == [2.0]


def test_trimming_keeps_all_that_are_as_large_as_the_least():
    sources = [
        InMemory({"w": torch.tensor([2.0, -2.0, 1.0, 3.0])}),
        InMemory({"w": torch.zeros(4)}),
    ]
    found = combined(sources, (1.0,), combine="ties", density=0.5)
    assert found.tolist() == [2.0, -2.0, 0.0, 3.0]


def masks(sources, density, seed=0):
    """Return what is left of a difference of ones, for each model."""
    shape = sources[0].load("w").shape
    how = Combination("dare", density, seed=seed)
    return [mask("w", k, shape, how) for k in range(len(sources) - 1)]


def mask(name, model, shape, how):
    ones = torch.ones(shape, dtype=torch.float64)
    delta = Delta(
        name, model, 1.0, ones.numel(), ones.dtype, lambda: ranges_in_memory(ones.clone())
    )
    return drop_at_random(delta, how).open()(0, ones.numel()).reshape(shape).numpy()


@pytest.mark.parametrize("combine", ["dare", "dare-ties"])
def test_dare_drops_divides_and_goes_on(combine):
    sources = draw_models()
    base, each = deltas(sources)
    kept = [delta * mask for delta, mask in zip(each, masks(sources, 0.4, seed=3), strict=True)]
    total = sum(w * d for w, d in zip(WEIGHTS, kept, strict=True))
    step = total if combine == "dare" else elected(kept, WEIGHTS)
    found = combined(sources, WEIGHTS, combine=combine, density=0.4, scale=0.9, seed=3)
    np.testing.assert_allclose(found, base + 0.9 * step, rtol=1e-12)


def test_dare_drops_as_many_as_it_says_others_for_each_model_name_and_seed():
    sources = draw_models(3, (100, 100))
    first, second = masks(sources, 0.25)
    assert set(np.unique(first)) == {0.0, 4.0}
    assert abs((first > 0).mean() - 0.25) < 0.02  # four deviations
    assert abs(((first > 0) & (second > 0)).mean() - 1 / 16) < 0.01
    (other, _) = masks(sources, 0.25, seed=1)
    assert (other != first).any()
    renamed = mask("v", 0, (100, 100), Combination("dare", 0.25))
    assert (renamed != first).any()


def test_model_stock_goes_as_far_as_the_angles_say():
    sources = draw_models()
    base, each = deltas(sources)
    cosines = [
        (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
        for a, b in itertools.combinations([one + 0.2 for one in each], 2)
    ]
    near = [InMemory({"w": torch.from_numpy(base + one + 0.2)}) for one in each]
    c = sum(cosines) / len(cosines)
    t = 3 * c / (1 + 2 * c)
    expected = t * (base + sum(each) / 3 + 0.2) + (1 - t) * base
    found = combined([*near, sources[-1]], (1.0,) * 3, combine="model-stock")
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert 0.1 < t < 0.95  # neither end


def test_model_stock_stays_at_the_base_where_models_point_apart():
    sources = [InMemory({"w": torch.tensor([value])}) for value in (3.0, 1.0, 2.0)]
    assert combined(sources, (1.0, 1.0), combine="model-stock").tolist() == [2.0]


def karcher(vectors, weights):
    """Return the spherical mean by plain steps on the sphere."""
    units = [v / np.linalg.norm(v) for v in vectors]
    shares = np.array(weights) / sum(weights)
    x = sum(w * u for w, u in zip(shares, units, strict=True))
    x /= np.linalg.norm(x)
    for _ in range(500):
        step = np.zeros_like(x)
        for w, u in zip(shares, units, strict=True):
            angle = np.arccos(np.clip(x @ u, -1, 1))
            step += w * (angle / np.sin(angle) if angle > 1e-9 else 1.0) * (u - (x @ u) * x)
        far = np.linalg.norm(step)
        x = np.cos(far) * x + np.sin(far) * step / max(far, 1e-300)
    return x * sum(w * np.linalg.norm(v) for w, v in zip(shares, vectors, strict=True))


def spherical_mean(tensors, weights):
    return combined([InMemory({"w": one}) for one in tensors], weights, combine="slerp-n")


@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_the_spherical_mean_is_that_of_plain_steps(spread):
    generator = torch.Generator().manual_seed(1)
    middle = torch.randn(30, generator=generator).double()
    each = [middle + spread * torch.randn(30, generator=generator) for _ in range(4)]
    weights = (1.0, 2.0, 0.5, 1.0)
    found = spherical_mean(each, weights)
    np.testing.assert_allclose(found, karcher([one.numpy() for one in each], weights), rtol=1e-6)


def test_the_spherical_mean_of_two_of_one_length_is_the_point_of_slerp():
    a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.2, 1.6])
    torch.testing.assert_close(spherical_mean([a, b], (3.0, 1.0)), slerp(a, b, 0.25))


@pytest.mark.parametrize("second", [[0.0, 0.0], [-3.0, 0.0]])
def test_where_there_is_no_direction_the_spherical_mean_is_the_mean(second):
    a, b = torch.tensor([1.0, 0.0]), torch.tensor(second)
    assert torch.equal(spherical_mean([a, b], (1.0, 1.0)), (a + b) / 2)


def test_models_that_are_equal_are_their_spherical_mean():
    (a, _) = draw_models(2)
    found = spherical_mean([a.load("w")] * 3, (1.0, 2.0, 3.0))
    torch.testing.assert_close(found, a.load("w"), rtol=1e-12, atol=0)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_all_is_computed_in_float32_or_wider(combine, dtype):
    sources = draw_models(4, dtype=dtype)
    kept = [source.load("w").clone() for source in sources]
    sources = sources if combine in FROM_BASE else sources[:-1]
    found = combined(sources, (1.0,) * 3, combine=combine, density=0.5)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert all(torch.equal(s.load("w"), k) for s, k in zip(sources, kept, strict=False))


@pytest.mark.parametrize("combine", FROM_BASE)
def test_models_that_have_learnt_nothing_are_the_base(combine):
    base = draw_models(1)[0]
    found = combined([base] * 3, (1.0, 1.0), combine=combine, density=0.5)
    assert torch.equal(found, base.load("w"))


@pytest.mark.parametrize("shape", [(), (0,), (1,)])
@pytest.mark.parametrize("combine", FROM_BASE)
def test_tensors_of_no_size_to_speak_of_are_combined(combine, shape):
    found = combined(draw_models(3, shape), (1.0, 1.0), combine=combine, density=0.5)
    assert found.shape == shape
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("combine", FROM_BASE)
def test_a_variance_stays_between_the_base_and_the_models(combine):
    values = (0.5, 0.25, 4.0)  # added up in full, the differences would make it negative
    sources = [InMemory({"bn.running_var": torch.full((5,), value)}) for value in values]
    found = combined(sources, (1.0, 1.0), "bn.running_var", combine=combine, density=0.5)
    assert ((found >= 0.25) & (found <= 4)).all()


def test_statistics_move_by_as_much_as_the_differences():
    sources = [InMemory({"bn.running_mean": torch.tensor([value])}) for value in (2.0, 4.0, 1.0)]
    how = {"name": "bn.running_mean", "combine": "task-arithmetic", "scale": 0.25}
    assert combined(sources, (1.0, 1.0), **how).tolist() == [2.0]  # half way from 1 to 3


def most_held(count, combine):
    """Return how many tensors of models are held at most while another is loaded."""
    alive: list[weakref.ref[torch.Tensor]] = []
    held: list[int] = []

    class Watched(InMemory):
        def load(self, name):
            held.append(sum(reference() is not None for reference in alive))
            tensor = super().load(name).clone()
            alive.append(weakref.ref(tensor))
            return tensor

    sources = draw_models(count + 1) if combine in FROM_BASE else draw_models(count + 1)[:-1]
    sources = [Watched({"w": one.load("w")}) for one in sources]
    combined(sources, (1.0,) * count, combine=combine, density=0.5)
    return max(held)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_few_tensors_are_held_however_many_models(combine):
    most = most_held(11, combine)
    assert most <= 4
    assert most <= most_held(5, combine)


# weights for globs


def test_a_range_stands_for_each_of_its_numbers():
    assert expand_ranges("a.{9..11}.*") == ["a.9.*", "a.10.*", "a.11.*"]
    assert expand_ranges("{0..1}.x.{2..3}") == ["0.x.2", "0.x.3", "1.x.2", "1.x.3"]
    assert expand_ranges("a.[0-9].{x}") == ["a.[0-9].{x}"]
    assert expand_ranges("a.{3..2}") == []


def test_ranges_without_end_are_refused():
    with pytest.raises(UsageError, match="more than 1000 globs"):
        expand_ranges("{0..999}.{0..999}")


def test_the_last_glob_that_names_a_tensor_counts():
    weights = TensorWeights((1.0, 1.0), (("a.*", (1.0, 3.0)), ("*.{0..1}", (0.0, 1.0))))
    names = ("a.x", "a.1", "b")
    sources = [InMemory({name: torch.tensor([value]) for name in names}) for value in (0.0, 4.0)]
    made = combine_models(sources, 0, weights, Combination(), lambda _: True)
    assert [made.load(name).item() for name in names] == [3.0, 4.0, 2.0]


def test_weights_of_zero_leave_a_tensor_of_the_base():
    sources = draw_models()
    weights = TensorWeights((1.0,) * 3, (("w", (0.0,) * 3),))
    found = combined(sources, weights, combine="ties", density=0.5)
    assert torch.equal(found, sources[-1].load("w"))
