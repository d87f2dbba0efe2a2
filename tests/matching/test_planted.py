"""A model in another order is brought back exactly, whatever its layers are."""

import pytest
import torch

from rebasin_cli.matching.problem.result import Status
from rebasin_cli.permutation import Permutation, inverse
from tests.matching.problems import example, mlp, objective, same

# What each has: layers in a chain; a flatten; identity and projection shortcuts; a stream, heads
# and dims inside them; grouped queries; square layers on a stream; experts under an axis of names
# with hidden units in each; recurrent weights; fused projections; heads that may not move; two
# streams.
NETWORKS = [
    "mlp_sequential",
    "vgg11_bn",
    "resnet20_stages",
    "char_gpt",
    "mlp_residual",
    "moe",
    "lstm",
    "interleaved_heads",
    "alibi",
    "cross_attention",
]
COSTLY = ["llama", "interleaved_groups"]  # queries are tried in every order
ALIKE = ["vgg11", "vit_flat"]  # as one of the networks, but without norms or text
SURE_UNDER_NOISE = ["vgg11", "vgg11_bn", "resnet20_stages", "vit_flat", "interleaved_heads"]
SEEDS = range(10)


def recovered(name, amount=0.0, seeds=SEEDS):
    """Return the seeds with which a planted order is found again; noise: see `Problem.noisy`."""
    found = []
    for seed in seeds:
        problem = example(name, seed)
        noisy = problem.noisy(seed + 100, amount) if amount else problem.state
        permutations = problem.draw(seed + 200)
        matching = problem.match(problem.permuted(permutations, noisy), seed=seed)
        if same(matching.permutations, inverse(permutations)):
            found.append(seed)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_order_is_recovered_ten_times_of_ten(name):
    assert recovered(name) == list(SEEDS)


@pytest.mark.parametrize("name", COSTLY)
def test_a_planted_order_of_grouped_queries_is_recovered(name):
    assert recovered(name, seeds=SEEDS[:2]) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COSTLY, *ALIKE])
def test_planted_orders_of_other_networks_are_recovered_ten_times_of_ten(name):
    assert recovered(name) == list(SEEDS)


@pytest.mark.parametrize("name", ["char_gpt", "mlp_residual"])
def test_a_planted_order_is_recovered_under_noise_as_large_as_the_weights(name):
    assert recovered(name, amount=1.0) == list(SEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SURE_UNDER_NOISE, *COSTLY])
def test_planted_orders_of_other_networks_are_recovered_under_noise_as_well(name):
    assert recovered(name, amount=1.0) == list(SEEDS)


@pytest.mark.parametrize("name", ["mlp_sequential", "mlp_residual", "interleaved_heads"])
def test_under_more_noise_what_is_found_is_worth_no_less_than_what_was_planted(name):
    for seed in range(4):
        problem = example(name, seed)
        permutations = problem.draw(seed)
        other = problem.permuted(permutations, problem.noisy(seed, amount=1.5))
        found = problem.match(other).objective.after
        planted = objective(problem, problem.state, other, inverse(permutations))
        assert found >= planted - 1e-6 * abs(planted)


@pytest.mark.parametrize("name", ["mlp_residual", "char_gpt", "moe"])
def test_recovering_a_planted_order_is_reported_as_exact(name):
    problem = example(name)
    other, _ = problem.planted(3)
    found = problem.match(other)
    assert found.status is Status.EXACT
    assert found.distance.after == 0.0 < found.distance.before


def test_the_aligned_model_is_the_reference_bit_by_bit():
    problem = example("char_gpt")
    other, _ = problem.planted(3)
    aligned = problem.permuted(problem.match(other).permutations, other)
    assert all(torch.equal(aligned[name], problem.state[name]) for name in aligned)


def test_a_planted_cycle_is_answered_by_the_cycle_the_other_way():
    problem = mlp()
    cycle = Permutation(torch.tensor([1, 2, 0, 3, 4, 5]))
    found = problem.match(problem.permuted({"h": cycle})).permutations
    assert found["h"].index.tolist() == [2, 0, 1, 3, 4, 5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_planted_order_is_recovered_in_every_dtype(dtype):
    for seed in range(3):
        problem = example("char_gpt", seed, dtype)
        other, answer = problem.planted(seed)
        assert same(problem.match(other).permutations, answer)
