"""Permutations of pairs become permutations of models that fit together."""

from dataclasses import replace

import pytest
import torch

from rebasin_cli.matching.many.factorisation import SYNC_METHODS
from rebasin_cli.matching.many.match_many import ManyRequest, pair_objective
from rebasin_cli.matching.many.strategies import STRATEGIES
from rebasin_cli.matching.many.synchronisation import Reconciliation, match_worth, share_torn
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.permutation import Permutation, compose, identity, inverse
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


def solutions(problem, pairs, method="spectral", reference=0):
    """Return for each family the permutations that agree most, and the rounds it took."""
    at = [way(pairs, which, reference) for which in range(COUNT)]
    for family in families(problem.bound).values():
        reconciliation = Reconciliation(
            family, problem.bound.groups, COUNT, reference, match_worth(pairs)
        )
        yield reconciliation.solved(at, method)


def way(pairs, which, reference):
    """Return the permutations to the reference's frame that the pairs with it tell."""
    if which == reference:
        return {name: still_like(p) for name, p in next(iter(pairs.values())).items()}
    near = pairs[min(which, reference), max(which, reference)]
    return near if which > reference else inverse(near)


def still_like(permutation):
    return identity(permutation.index.shape, permutation.parents)


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
@pytest.mark.parametrize("method", SYNC_METHODS)
def test_pairs_that_fit_together_are_kept_as_they_are(name, method):
    problem, frames, pairs = planted(name)
    assert share_torn(families(problem.bound).values(), pairs, COUNT) == 0
    for found, _ in solutions(problem, pairs, method):
        for own, frame in zip(found, frames, strict=True):
            assert all(own[group] == frame[group] for group in own)


@pytest.mark.parametrize("name", ["mlp_sequential", "char_gpt"])
@pytest.mark.parametrize("method", [*SYNC_METHODS, "votes alone"])
def test_a_wrong_pair_is_outvoted(name, method, monkeypatch):
    """Of six pairs one is spoiled, one that the reference has no part in and one that it has."""
    if method == "votes alone":
        monkeypatch.setattr("rebasin_cli.matching.many.synchronisation.STACKED", 0)
    for wrong in ((1, 2), (0, 3)):
        problem, frames, pairs = planted(name)
        pairs[wrong] = spoiled(pairs[wrong], 7)
        assert share_torn(families(problem.bound).values(), pairs, COUNT) > 0
        for found, rounds in solutions(problem, pairs, method):
            assert rounds < 10
            for own, frame in zip(found, frames, strict=True):
                assert all(own[group] == frame[group] for group in own)


def test_the_frame_is_that_of_the_reference():
    problem, _, pairs = planted("mlp_sequential")
    for found, _ in solutions(problem, pairs, reference=2):
        assert all(permutation.moved == 0 for permutation in found[2].values())


def test_where_pairs_disagree_wholly_the_reference_stays_all_the_same():
    problem, _, pairs = planted("mlp_sequential")
    unrelated = {pair: problem.draw(100 + k) for k, pair in enumerate(pairs)}
    for found, _ in solutions(problem, unrelated, reference=2):
        assert all(permutation.moved == 0 for permutation in found[2].values())


def test_torn_counts_the_units_that_do_not_come_back():
    problem, _, pairs = planted("mlp_sequential")
    moving = families(problem.bound)
    units = sum(chain.size for family in moving.values() for chain in family.chains())
    pairs[1, 2] = spoiled(pairs[1, 2], 7)
    triples_with, triples = 2, 4
    lost = 2 * len(moving) * triples_with
    assert share_torn(moving.values(), pairs, COUNT) == pytest.approx(lost / (units * triples))


@pytest.mark.parametrize("strategy", ["sync", "sync-sweeps"])
@pytest.mark.parametrize("name", ["mlp_residual", "lstm", "char_gpt"])
def test_models_that_are_one_model_reordered_are_brought_together(name, strategy):
    problem = example(name)
    copies = [problem.state, *(problem.permuted(problem.draw(k)) for k in range(2))]
    request = problem.request(copies)
    found = STRATEGIES[strategy](request)
    answers = [request.still(), *(inverse(problem.draw(k)) for k in range(2))]
    assert found.torn == 0
    assert all(same(*pair) for pair in zip(found.permutations, answers, strict=True))


def test_models_that_may_not_move_stay():
    problem = example("mlp_sequential")
    states = [problem.state, example("mlp_sequential", 2).state, example("mlp_sequential", 3).state]
    request: ManyRequest = replace(problem.request(states), movable=frozenset({"hidden.0"}))
    found = STRATEGIES["sync"](request).permutations
    assert all(p.moved == 0 for own in found for name, p in own.items() if name != "hidden.0")


@pytest.mark.parametrize("method", SYNC_METHODS)
def test_factors_of_what_agrees_give_it_back(method):
    """Of consistent matches the factors' products are the matches themselves, to rounding."""
    frames = [torch.randperm(6, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    stacked = torch.stack([torch.eye(6, dtype=torch.float64)[frame] for frame in frames])
    matrix = torch.einsum("anu,bmu->anbm", stacked, stacked)
    factors = SYNC_METHODS[method](matrix)
    found = torch.einsum("anu,bmu->anbm", factors, factors)
    assert torch.equal(found.argmax(-1), matrix.argmax(-1))
    others = found[matrix == 0].abs().max()
    assert float(others) < 0.1 * float(found[matrix == 1].min())


@pytest.mark.parametrize(
    ("name", "method"),
    [("mlp_residual", "spectral"), ("mlp_sequential", "stiefel"), ("interleaved_heads", "nmf")],
)
def test_sweeps_bring_unrelated_models_nearer_than_pairs_that_are_reconciled(name, method):
    rises = []
    for seeds in ((1, 2, 3), (4, 5, 6)):
        problem = example(name, seeds[0])
        states = [example(name, seed).state for seed in seeds]
        request = replace(problem.request(states), sync_method=method)
        pairs, sweeps = (STRATEGIES[each](request) for each in ("sync", "sync-sweeps"))
        before, after = (pair_objective(request, each.permutations) for each in (pairs, sweeps))
        rises.append(after - before)
        assert sweeps.converged
        assert sweeps.torn == pairs.torn
        assert pairs.torn
        assert all(permutation.moved == 0 for permutation in sweeps.permutations[0].values())
    assert min(rises) >= 0
    assert max(rises) > 0
