"""Similarities kept from visit to visit are those computed anew, whatever moved in between."""

from dataclasses import replace

import pytest
import torch

from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.similarity_cache import SimilarityCache
from rebasin_cli.matching.problem.terms import Pair
from rebasin_cli.permutation import Permutation, compose, random_permutation
from tests.matching.polytopes import STRUCTURES, loaded, one_hot, structure, unrelated
from tests.matching.problems import objective, same, still

PLENTY = 1 << 30
MOVES = 25


def kept_of(problem, other, limit=PLENTY):
    """Return what is kept of a pair, and its families."""
    pair = Pair(loaded(problem.state), loaded(other), problem.bound.groups)
    moving = families(problem.bound)
    return SimilarityCache(pair, moving, limit), moving


def by_matrices(kept, family, permutations):
    """Return the similarity of each of a family's chains from all elements, by matrices."""
    found: dict[tuple[str, ...], torch.Tensor] = {}
    for site in family.sites:
        reference, other = kept.pair.arrays(site)
        for position in family.own(site):
            moved = other
            for axis, chain in enumerate(site.chains):
                if axis != position:
                    matrix = one_hot(chain.order(permutations))
                    moved = torch.tensordot(matrix, moved, ([1], [axis])).movedim(0, axis)
            rest = [axis for axis in range(moved.dim()) if axis != position]
            groups = site.chains[position].groups
            here = torch.tensordot(reference, moved, (rest, rest))
            found[groups] = found.get(groups, 0) + here
    return found


def check(kept, family, permutations):
    expected = by_matrices(kept, family, permutations)
    found = {s.groups: s.matrix() for s in kept.similarities(family, permutations)}
    assert found.keys() == expected.keys()
    for groups, values in found.items():
        torch.testing.assert_close(values, expected[groups], rtol=1e-9, atol=1e-9)


def swapped(permutation, generator):
    """Return a permutation with two units of one parent in each other's place."""
    index = permutation.index.clone()
    rows = index.reshape(-1, index.shape[-1])
    row = rows[torch.randint(len(rows), (), generator=generator)]
    first, second = torch.randperm(len(row), generator=generator)[:2].tolist()
    row[[first, second]] = row[[second, first]]
    return replace(permutation, index=index)


def wander(problem, seed):
    """Yield permutations, each a few units or one whole group from the last."""
    generator = torch.Generator().manual_seed(seed)
    movable = [group for group in problem.bound.groups.values() if not group.fixed]
    now = still(problem)
    for step in range(MOVES):
        group = movable[int(torch.randint(len(movable), (), generator=generator))]
        far = step % 6 == 5
        found = (
            random_permutation(group.shape, group.parents, generator)
            if far
            else swapped(now[group.name], generator)
        )
        now = {**now, group.name: found}
        yield now


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("limit", [0, PLENTY])
@pytest.mark.parametrize("seed", range(2))
def test_after_any_moves_similarities_are_those_of_matrices(name, limit, seed):
    problem = structure(name, seed)
    kept, moving = kept_of(problem, unrelated(name, seed + 10), limit)
    generator = torch.Generator().manual_seed(seed)
    for permutations in wander(problem, seed):
        for family in moving.values():
            if torch.rand((), generator=generator) < 0.6:  # else the moves add up
                check(kept, family, permutations)


@pytest.mark.parametrize("name", STRUCTURES)
def test_small_moves_are_added_and_not_computed_anew(name, monkeypatch):
    problem = structure(name)
    kept, moving = kept_of(problem, unrelated(name, 10))
    for family in moving.values():
        kept.similarities(family, still(problem))
    monkeypatch.setattr(SimilarityCache, "_anew", lambda *_: pytest.fail("computed anew"))
    generator = torch.Generator().manual_seed(0)
    for group in problem.bound.groups.values():
        if not group.fixed and group.size > 3:
            now = {**still(problem), group.name: swapped(still(problem)[group.name], generator)}
            for family in moving.values():
                check(kept, family, now)
                kept.similarities(family, still(problem))


def test_large_moves_are_computed_anew(monkeypatch):
    problem = structure("cube")
    kept, moving = kept_of(problem, unrelated("cube", 10))
    kept.similarities(moving["a"], still(problem))
    monkeypatch.setattr(SimilarityCache, "_add_difference", lambda *_: pytest.fail("added"))
    turned = {"b": [1, 2, 3, 4, 0], "c": [1, 2, 3, 4, 5, 0]}
    moved = {name: Permutation(torch.tensor(order)) for name, order in turned.items()}
    check(kept, moving["a"], {**still(problem), **moved})


def test_after_many_additions_a_similarity_is_computed_anew(monkeypatch):
    problem = structure("chain")
    kept, moving = kept_of(problem, unrelated("chain", 10))
    made, anew = [], SimilarityCache._anew

    def counted(*arguments):
        made.append(arguments)
        return anew(*arguments)

    monkeypatch.setattr(SimilarityCache, "_anew", counted)
    generator, now = torch.Generator().manual_seed(0), still(problem)
    for _ in range(120):
        kept.similarities(moving["k"], now)
        now = {**now, "h": swapped(now["h"], generator)}
    assert len(made) == 3


def test_beyond_the_limit_nothing_is_kept():
    problem = structure("chain")
    kept, moving = kept_of(problem, unrelated("chain", 10), 6 * 6 * 8 + 5)
    for family in (*moving.values(), *moving.values()):
        kept.similarities(family, still(problem))
    assert kept._states.keys() == {"h"}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("limit", [0, PLENTY])
def test_a_gain_is_the_difference_of_the_objectives_of_permuted_copies(name, limit):
    problem, other = structure(name), unrelated(name, 10)
    kept, moving = kept_of(problem, other, limit)
    for seed, before in enumerate(wander(problem, 3)):
        drawn = problem.draw(seed)
        for family in moving.values():
            after = {**before, **{n: p for n, p in drawn.items() if n in family.names}}
            gain = kept.gain(family, kept.votes(family, before), before, after)
            values = (objective(problem, problem.state, other, p) for p in (before, after))
            assert gain == pytest.approx(-(next(values) - next(values)), rel=1e-9, abs=1e-9)


def test_which_families_are_kept_does_not_depend_on_who_asks_first():
    """Threads ask in any order: what is kept, and how it is rounded, must not follow theirs."""
    problem = structure("chain")
    kept, moving = kept_of(problem, unrelated("chain", 10), limit=6 * 6 * 8)
    for root in reversed(list(moving)):
        kept.similarities(moving[root], still(problem))
    assert kept._states.keys() == {"h"}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("seed", range(2))
def test_a_descent_without_memory_for_similarities_ends_in_the_same_place(name, seed, monkeypatch):
    problem, other = structure(name, seed), unrelated(name, seed + 10)
    rich = problem.match(other, method="weights")
    monkeypatch.setattr(
        "rebasin_cli.matching.problem.similarity_cache.kept_words", lambda *given: {}
    )
    poor = problem.match(other, method="weights")
    assert same(poor.permutations, rich.permutations)
    assert poor.history == pytest.approx(rich.history, rel=1e-9)


@pytest.mark.parametrize("name", STRUCTURES)
def test_moving_all_that_meets_a_family_alike_in_both_models_changes_no_similarity(name):
    """Similarities compare: what both models have in another order alike is no difference."""
    problem, other = structure(name), unrelated(name, 10)
    common = problem.draw(4)
    first, moving = kept_of(problem, other)
    moved = replace(problem, state=problem.permuted(common))
    second, _ = kept_of(moved, other)
    for family in moving.values():
        now = problem.draw(7)
        orders = {c.groups: c.order(common) for c in family.chains()}
        both = zip(
            first.similarities(family, now),
            second.similarities(family, compose(now, common)),
            strict=True,
        )
        for here, there in both:
            expected = here.matrix()[orders[here.groups]]
            torch.testing.assert_close(there.matrix(), expected, rtol=1e-9, atol=1e-9)


def test_permutations_that_a_family_does_not_meet_do_not_touch_what_is_kept():
    problem = structure("chain")
    kept, moving = kept_of(problem, unrelated("chain", 10))
    kept.similarities(moving["h"], still(problem))
    state = kept._states["h"]
    own = {**still(problem), "h": Permutation(torch.tensor([1, 0, 2, 3, 4, 5]))}
    kept.similarities(moving["h"], own)
    assert all(torch.equal(kept._states["h"].values[g], v) for g, v in state.values.items())
