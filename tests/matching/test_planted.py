"""A model in another order is brought back exactly, whatever its layers, from every start order."""

import pytest
import torch

from rebasin_cli.matching import Status
from tests.matching.problems import example, same

NETWORKS = [
    "mlp_sequential",
    "vgg11",
    "vgg11_bn",
    "resnet20_stages",
    "vit_flat",
    "char_gpt",
    "llama",
    "mlp_residual",
    "moe",
    "lstm",
    "interleaved_heads",
    "interleaved_groups",
    "cross_attention",
]
SEEDS = range(10)


def recovered(name, amount=0.0, **settings):
    """Return the seeds with which a planted order is found again; noise: see `Problem.noisy`."""
    problem = example(name)
    found = []
    for seed in SEEDS:
        noisy = problem.noisy(seed + 100, amount) if amount else problem.state
        permutations = problem.draw(seed)
        other = problem.permuted(permutations, noisy)
        matching = problem.match(other, seed=seed, **settings)
        if same(matching.permutations, problem.planted(seed)[1]):
            found.append(seed)
    return found
