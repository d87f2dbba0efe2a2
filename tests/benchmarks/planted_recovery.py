"""Claim: a planted permutation is recovered exactly, whatever the network.

Every group of a model is permuted at random, and the matching has to find the way back. It is
recovered if undoing what was found gives the model bit by bit (units that are equal may change
places). Columns: "planted": every group, but the dims inside heads and experts stay; "inside too":
those as well; "noise": Gaussian noise as large as the weights, tensor by tensor, is added to the
permuted model before the search. "worst": the lowest objective found with noise, relative to that
of the planted permutation; where it is 1 or more, a miss means that the noise has made another
order better than the planted one. "default": the default settings, which walk through the polytope
of soft permutations where that costs little, beside descents by coordinates from descriptors;
"identity": descent from the identity alone, as other tools do. Networks: the trained ones if they
are present; residual perceptrons, 6 blocks, 64 and 128 wide, and a resnet18 whose first stage is 16
wide, as torch starts them; and small random ones of tests/models. The matching is called in this
process. --full: 10 seeds instead of 2, and all random networks instead of those whose structure
the others lack.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.measure import measure
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permutation import Permutation, identity, inverse
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.benchmarks.bed.networks import FOLDER, NETWORKS, VARIABLE, Network, present
from tests.benchmarks.bed.pairs import residual_perceptron, residual_spec, resnet18, trained
from tests.benchmarks.bed.tables import Row, number, table
from tests.models import EXAMPLES
from tests.proof import draw, permuted, stored

STARTS = {"default": Settings(), "identity": Settings(method="weights", starts=("identity",))}
RESIDUAL_WIDTHS, RESIDUAL_BLOCKS = (64, 128), 6
RESNET_WIDTH = 16
RANDOM = {
    "mlp_sequential": "mlp",
    "vgg11": "vgg",
    "resnet18": "resnet-basic",
    "resnet20_stages": "resnet20-cifar",
    "vit_timm": "preln-vit",
    "char_gpt": "preln-gpt",
    "llama": "llama",
}
LACKING = ("llama",)  # grouped queries
HEADS = ("network", "start", "planted", "inside too", "noise", "worst", "CPU s, median")


@dataclass(frozen=True)
class Problem:
    """A model, its spec, and whether some groups have a permutation for each head."""

    name: str
    state: Mapping[str, Tensor]
    bound: BoundSpec

    @property
    def nested(self) -> bool:
        return any(group.parents for group in self.bound.groups.values())


@dataclass(frozen=True)
class Attempt:
    """One search: whether the model came back, the objective over the planted one's, seconds."""

    recovered: bool
    quality: float
    cpu: float


def trained_once(network: Network) -> Problem:
    """Return seed 0 of a trained network."""
    pair = trained(network, (0, 1))
    return Problem(network.name, pair.reference, pair.bound)


def made() -> Iterator[Problem]:
    """Yield the networks that are wide enough to be told from noise, as torch starts them."""
    for width in RESIDUAL_WIDTHS:
        state = residual_perceptron(width, RESIDUAL_BLOCKS, 0)
        bound = bind(residual_spec(), infos(InMemory(state)))
        yield Problem(f"residual MLP, {width} x {RESIDUAL_BLOCKS}", state, bound)
    state = resnet18(RESNET_WIDTH, 0)
    bound = bind(load_spec("resnet-basic"), infos(InMemory(state)))
    yield Problem(f"resnet18, {RESNET_WIDTH} wide", state, bound)


def random_weights(name: str, spec: str) -> Problem:
    """Return a network of tests/models with random weights."""
    example = EXAMPLES[name]
    state = stored(example.model(seed=0))
    bound = bind(load_spec(spec), infos(InMemory(state)), sizes=example.sizes)
    return Problem(f"{name}, random", state, bound)


def attempt(problem: Problem, settings: Settings, seed: int, *, inside: bool) -> Attempt:
    """Plant a permutation and search for it."""
    hidden = plant(problem, seed, inside=inside)
    return search(problem, hidden, moved(problem, problem.state, hidden), settings, seed)


def noisy_attempt(problem: Problem, settings: Settings, seed: int) -> Attempt:
    """Plant a permutation of every group and noise on top, and search for the permutation."""
    hidden = plant(problem, seed, inside=True)
    other = noisy(moved(problem, problem.state, hidden), seed)
    return search(problem, hidden, other, settings, seed)


def search(
    problem: Problem,
    hidden: Mapping[str, Permutation],
    other: Mapping[str, Tensor],
    settings: Settings,
    seed: int,
) -> Attempt:
    """Match `other` to the model and compare what was found with what was hidden."""
    reference, began = InMemory(problem.state), time.process_time()
    seeded = replace(settings, seed=seed)
    found = match_weights(reference, InMemory(other), problem.bound, settings=seeded)
    cpu = time.process_time() - began
    clean = moved(problem, problem.state, hidden)
    back = moved(problem, clean, found.permutations)
    same = all(torch.equal(value, back[name]) for name, value in problem.state.items())
    best = planted_objective(problem, other, inverse(hidden))
    return Attempt(same, found.objective.after / best, cpu)


def planted_objective(
    problem: Problem, other: Mapping[str, Tensor], permutations: Mapping[str, Permutation]
) -> float:
    """Return the objective of known permutations."""
    source = InMemory(problem.state), InMemory(other)
    return measure(*source, problem.bound, permutations).objective.after


def plant(problem: Problem, seed: int, *, inside: bool) -> dict[str, Permutation]:
    """Return a random permutation of every group, or of those alone that have no parent."""
    drawn = draw(problem.bound, seed)
    if inside:
        return drawn
    groups = problem.bound.groups
    return {
        name: identity(groups[name].shape, p.parents) if p.parents else p
        for name, p in drawn.items()
    }


def moved(
    problem: Problem, state: Mapping[str, Tensor], permutations: Mapping[str, Permutation]
) -> dict[str, Tensor]:
    return {**state, **permuted(state, problem.bound.tensors, permutations)}


def noisy(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return the model with noise of each tensor's own root mean square added to it."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return {
        name: value + torch.randn(value.shape, generator=generator) * value.square().mean().sqrt()
        if value.is_floating_point()
        else value
        for name, value in state.items()
    }


def row(problem: Problem, start: str, seeds: range) -> Row:
    """Return one row: how often each kind of planted permutation was recovered."""
    settings = STARTS[start]
    plain = [attempt(problem, settings, seed, inside=False) for seed in seeds]
    inner = [attempt(problem, settings, seed, inside=True) for seed in seeds if problem.nested]
    noise = [noisy_attempt(problem, settings, seed) for seed in seeds]
    seconds = median(one.cpu for one in (*plain, *inner, *noise))
    worst = number(min(one.quality for one in noise), 4)
    cells = [count(plain), count(inner) if inner else "-", count(noise), worst]
    return (problem.name, start, *cells, number(seconds, 2))


def count(attempts: list[Attempt]) -> str:
    return f"{sum(one.recovered for one in attempts)}/{len(attempts)}"


def problems(*, full: bool) -> Iterator[Problem]:
    """Yield the trained networks, where there are any, then random ones."""
    if present():
        yield from (trained_once(network) for network in NETWORKS)
    else:
        print(f"No trained networks in {FOLDER} ({VARIABLE}): random ones alone.\n")
    chosen = RANDOM if full or not present() else LACKING
    yield from made()
    yield from (random_weights(name, RANDOM[name]) for name in chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="10 seeds, all networks")
    full = parser.parse_args().full
    seeds = range(10 if full else 2)
    torch.set_num_threads(1)
    rows = [row(p, start, seeds) for p in problems(full=full) for start in STARTS]
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()
