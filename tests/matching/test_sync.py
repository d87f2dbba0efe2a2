"""Permutations of pairs become permutations of models that fit together."""

from dataclasses import replace

import pytest
import torch

from rebasin_cli.matching.many.match_many import Request
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.matching.many.synchronisation import PairPermutations, torn
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.permutation import Permutation, compose, inverse
from tests.matching.problems import example, same

COUNT = 4


def planted(name, seed=0):
    """Return a problem, a permutation to one frame for each model, and those between all pairs."""
    problem = example(name, seed)
    frames = [problem.draw(10 * seed + k) for k in range(COUNT)]
    frames = [compose(frame, inverse(frames[0])) for frame in frames]
    pairs = {
        (a, b): compose(frames[b], inverse(frames[a]))
        for a in range(COUNT)
        for b in range(a + 1, COUNT)
    }
    return problem, frames, pairs


def agreements(problem, pairs, reference=0):
    moving = families(problem.bound)
    return [
        PairPermutations(family, problem.bound.groups, pairs, COUNT, reference)
        for family in moving.values()
    ]


def spoiled(pair, seed, units=2):
    """Return the permutations of a pair with a few units of every group exchanged."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, permutation in pair.items():
        index = permutation.index.clone()
        rows = index.reshape(-1, index.shape[-1])
        for row in rows:
            chosen = torch.randperm(len(row), generator=generator)[:units]
            row[chosen] = row[chosen.roll(1)]
        result[name] = Permutation(index, permutation.parents)
    return result


@pytest.mark.parametrize("name", ["mlp_sequential", "mlp_residual", "char_gpt"])
@pytest.mark.parametrize("spectral", [4096, 0], ids=["spectral", "powers"])
def test_pairs_that_fit_together_are_kept_as_they_are(name, spectral, monkeypatch):
    monkeypatch.setattr("rebasin_cli.matching.many.synchronisation.SPECTRAL", spectral)
    problem, frames, pairs = planted(name)
    assert torn(families(problem.bound).values(), pairs, COUNT) == 0
    for agreement in agreements(problem, pairs):
        found, _ = agreement.solved()
        for own, frame in zip(found, frames, strict=True):
            assert all(own[group] == frame[group] for group in own)


@pytest.mark.parametrize("name", ["mlp_sequential", "char_gpt"])
@pytest.mark.parametrize("spectral", [4096, 0], ids=["spectral", "powers"])
def test_a_wrong_pair_is_outvoted(name, spectral, monkeypatch):
    """Of six pairs one is spoiled, one that the reference has no part in and one that it has."""
    monkeypatch.setattr("rebasin_cli.matching.many.synchronisation.SPECTRAL", spectral)
    for wrong in ((1, 2), (0, 3)):
        problem, frames, pairs = planted(name)
        pairs[wrong] = spoiled(pairs[wrong], 7)
        assert torn(families(problem.bound).values(), pairs, COUNT) > 0
        for agreement in agreements(problem, pairs):
            found, rounds = agreement.solved()
            assert rounds < 10
            for own, frame in zip(found, frames, strict=True):
                assert all(own[group] == frame[group] for group in own)


def test_the_frame_is_that_of_the_reference():
    problem, _, pairs = planted("mlp_sequential")
    for agreement in agreements(problem, pairs, reference=2):
        found, _ = agreement.solved()
        assert all(permutation.moved == 0 for permutation in found[2].values())


@pytest.mark.parametrize("name", ["mlp_sequential", "char_gpt"])
def test_the_pairs_with_the_reference_say_where_to_begin(name):
    problem, frames, pairs = planted(name)
    home = inverse(frames[2])
    for agreement in agreements(problem, pairs, reference=2):
        found, _ = agreement.star()
        for own, frame in zip(found, frames, strict=True):
            assert all(own[group] == compose(frame, home)[group] for group in own)


def test_where_pairs_disagree_wholly_the_reference_stays_all_the_same():
    problem, _, pairs = planted("mlp_sequential")
    unrelated = {pair: problem.draw(100 + k) for k, pair in enumerate(pairs)}
    for agreement in agreements(problem, unrelated, reference=2):
        found, _ = agreement.solved()
        assert all(permutation.moved == 0 for permutation in found[2].values())


def test_torn_counts_the_units_that_do_not_come_back():
    problem, _, pairs = planted("mlp_sequential")
    moving = families(problem.bound)
    units = sum(chain.size for family in moving.values() for chain in family.chains())
    pairs[1, 2] = spoiled(pairs[1, 2], 7)
    triples_with, triples = 2, 4
    lost = 2 * len(moving) * triples_with
    assert torn(moving.values(), pairs, COUNT) == pytest.approx(lost / (units * triples))


@pytest.mark.parametrize("name", ["mlp_residual", "lstm", "char_gpt"])
def test_models_that_are_one_model_reordered_are_brought_together(name):
    problem = example(name)
    copies = [problem.state, *(problem.permuted(problem.draw(k)) for k in range(2))]
    request = problem.request(copies)
    found = STRATEGIES["sync"](request)
    answers = [request.still(), *(inverse(problem.draw(k)) for k in range(2))]
    assert found.torn == 0
    assert all(same(*pair) for pair in zip(found.permutations, answers, strict=True))


def test_models_that_may_not_move_stay():
    problem = example("mlp_sequential")
    states = [problem.state, example("mlp_sequential", 2).state, example("mlp_sequential", 3).state]
    request: Request = replace(problem.request(states), movable=frozenset({"hidden.0"}))
    found = STRATEGIES["sync"](request).permutations
    assert all(p.moved == 0 for own in found for name, p in own.items() if name != "hidden.0")
