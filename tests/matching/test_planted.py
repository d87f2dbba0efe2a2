"""A model in another order is brought back exactly, whatever its layers, from every start order."""

import pytest
import torch

from rebasin_cli.matching import Status
from tests.matching.problems import example, same
from rebasin_cli.permutation import inverse

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


