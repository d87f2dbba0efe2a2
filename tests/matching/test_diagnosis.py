"""The figures of units, computed once more one by one, and what they are taken to mean."""

from functools import cache

import numpy as np
import pytest
import torch

from rebasin_cli.matching.diagnostics import margins
from rebasin_cli.matching.diagnostics import unit_figures as unit_sums
from rebasin_cli.matching.diagnostics.relation import (
    Relation,
    aligned_relation,
    compare_models,
    present_relation,
)
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.result import Change, Status, UnitComparison, UnitFigures
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.permuted import take
from rebasin_cli.tensors import InMemory
from tests.matching import test_checkpoints as trained
from tests.matching.problems import MLP, example, mlp, random_problem, random_state, still

NETWORKS = ["mlp_sequential", "mlp_residual", "char_gpt", "moe", "lstm", "resnet20_stages"]
WIDE = ["0.weight: [a, ~]", "0.bias: [a]", "1.weight: [b, a]", "2.weight: [~, b]"]
WIDE_SHAPES = {"0.weight": (64, 32), "0.bias": (64,), "1.weight": (96, 64), "2.weight": (10, 96)}


@cache
def matched(name):
    """Return a problem, an unrelated model of its kind, and their matching."""
    problem, other = example(name, seed=1), example(name, seed=2).state
    return problem, other, problem.match(other)


def figures(problem, other, permutations, detail="units"):
    sources = InMemory(problem.state), InMemory(other)
    return compare_models(*sources, problem.bound, permutations, detail)[1]


def units(problem, state, group, permutations):
    """Return the weights of every unit of a group that vote, as float64 rows."""
    rows = []
    for tensor in problem.bound.tensors:
        if not tensor.votes:
            continue
        values = take(tensor.load(InMemory(state)), tensor, permutations).contiguous().double()
        for block in tensor.blocks:
            array = block.view(values).numpy()
            for axis, owner in enumerate(block.groups):
                if owner == group.name:
                    front = [*map(block.groups.index, group.parents), axis]
                    moved = np.moveaxis(array, front, range(len(front)))
                    rows.append(moved.reshape(np.prod(group.shape), -1))
    return np.concatenate(rows, axis=1)


def unit_vectors(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def both(problem, other, group, permutations):
    """Return the unit vectors of reference and permuted other."""
    a = unit_vectors(units(problem, problem.state, group, {}))
    return a, unit_vectors(units(problem, other, group, permutations))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cosine_of_a_group_is_the_mean_over_its_units(name):
    problem, other, match = matched(name)
    found = figures(problem, other, match.permutations)
    assert list(found.groups) == list(problem.bound.groups)
    for group in problem.bound.groups.values():
        cosine = found.groups[group.name].cosine
        for value, order in ((cosine.before, {}), (cosine.after, match.permutations)):
            a, b = both(problem, other, group, order)
            assert value == pytest.approx((a * b).sum(1).mean(), abs=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_kept_is_the_norm_of_the_average_of_two_unit_vectors(name):
    problem, other, match = matched(name)
    found = figures(problem, other, match.permutations)
    for group in problem.bound.groups.values():
        a, b = both(problem, other, group, match.permutations)
        kept = np.linalg.norm((a + b) / 2, axis=1).mean()
        assert found.groups[group.name].collapse.after == pytest.approx(kept, abs=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_margin_is_the_lead_over_the_best_of_all_other_units(name):
    problem, other, match = matched(name)
    found = figures(problem, other, match.permutations, "margins")
    parents = {p for group in problem.bound.groups.values() for p in group.parents}
    for group in problem.bound.groups.values():
        margin = found.groups[group.name].margin
        if group.name in parents:
            assert margin is None
            continue
        vectors = both(problem, other, group, match.permutations)
        a, b = (v.reshape(-1, group.size, v.shape[1]) for v in vectors)
        cosines = np.einsum("bim,bjm->bij", a, b)
        partner = np.einsum("bii->bi", cosines).copy()
        np.einsum("bii->bi", cosines)[:] = -1
        lead = partner - cosines.max(2)
        assert margin.mean == pytest.approx(lead.mean(), abs=1e-5)
        assert margin.nearest == pytest.approx((lead >= 0).mean(), abs=1e-9)


def test_margins_are_left_out_unless_they_are_asked_for():
    problem, other, match = matched("moe")
    found = figures(problem, other, match.permutations)
    assert all(group.margin is None for group in found.groups.values())


@pytest.mark.parametrize("name", ["char_gpt", "moe", "mlp_residual"])
def test_the_figures_do_not_depend_on_how_the_work_is_cut(name, monkeypatch):
    problem, other, match = matched(name)
    whole = figures(problem, other, match.permutations, "margins")
    monkeypatch.setattr(unit_sums, "IN_CACHE", 50)
    monkeypatch.setattr(margins, "AT_ONCE", 1)
    pieces = figures(problem, other, match.permutations, "margins")
    assert pieces.chance == pytest.approx(whole.chance, rel=1e-9)
    assert pieces.cosine.after == pytest.approx(whole.cosine.after, rel=1e-9)
    for group, figure in pieces.groups.items():
        assert figure.cosine.after == pytest.approx(whole.groups[group].cosine.after, rel=1e-9)
        before = whole.groups[group].margin
        assert (figure.margin is None) == (before is None)
        assert before is None or figure.margin.mean == pytest.approx(before.mean, rel=1e-5)


def test_the_figures_of_the_whole_are_weighted_by_elements():
    problem, other, match = matched("char_gpt")
    found = figures(problem, other, match.permutations)
    sizes = {
        name: sum(
            b.numel
            for t in problem.bound.tensors
            if t.votes
            for b in t.blocks
            for owner in b.groups
            if owner == name
        )
        for name in problem.bound.groups
    }
    expected = sum(size * found.groups[g].cosine.after for g, size in sizes.items())
    assert found.whole.cosine.after == pytest.approx(expected / sum(sizes.values()))


def test_two_opposite_units_lead_by_all_there_is():
    shapes = {"inp.weight": (2, 5), "inp.bias": (2,), "out.weight": (3, 2)}
    problem = random_problem(MLP, shapes)
    for name, axis in (("inp.weight", 0), ("inp.bias", 0), ("out.weight", 1)):
        problem.state[name].select(axis, 1).copy_(-problem.state[name].select(axis, 0))
    (found,) = figures(problem, problem.state, still(problem), "margins").groups.values()
    assert found.margin.mean == pytest.approx(2, rel=1e-5)


def test_dead_units_do_not_count():
    problem, other = mlp(), mlp(seed=1).state
    dead = {n: v.clone() for n, v in other.items()}
    dead["inp.weight"][2], dead["inp.bias"][2], dead["out.weight"][:, 2] = 0, 0, 0
    (found,) = figures(problem, dead, still(problem), "margins").groups.values()
    (group,) = problem.bound.groups.values()
    alive = [0, 1, 3, 4, 5]
    a, b = (unit_vectors(units(problem, s, group, {})[alive]) for s in (problem.state, dead))
    assert found.cosine.after == pytest.approx((a * b).sum(1).mean())
    assert found.margin.nearest in [k / 5 for k in range(6)]


def test_a_group_of_dead_units_has_no_figures():
    problem = mlp()
    dead = {name: torch.zeros_like(values) for name, values in problem.state.items()}
    found = figures(problem, dead, still(problem), "margins")
    (group,) = found.groups.values()
    assert (group.cosine, group.collapse, group.margin) == (None, None, None)
    assert found.whole.cosine is None
    assert aligned_relation(Status.STAYED, found) is Relation.UNRELATED


def test_units_of_one_model_are_all_nearest_to_themselves():
    problem = example("char_gpt")
    found = figures(problem, problem.state, still(problem), "margins")
    assert found.whole.cosine.after == pytest.approx(1)
    assert found.whole.collapse.after == pytest.approx(1)
    margin = [g.margin for g in found.groups.values() if g.margin]
    assert all(m.nearest == 1 and m.mean > 0 for m in margin)


@pytest.mark.parametrize("seed", range(3))
def test_unrelated_weights_are_matched_to_a_little_less_than_chance(seed):
    problem = random_problem(WIDE, WIDE_SHAPES, seed=seed)
    other = random_state(WIDE_SHAPES, seed + 50)
    found = figures(problem, other, problem.match(other).permutations)
    assert 0.7 * found.chance < found.cosine.after < found.chance


def relation(problem, other):
    match = problem.match(other)
    return aligned_relation(match.status, figures(problem, other, match.permutations))


def present(problem, other):
    return present_relation(figures(problem, other, {}))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_pair_is_told_apart(name):
    problem = example(name)
    planted = problem.permuted(problem.draw(3))
    noisy = problem.permuted(problem.draw(3), problem.noisy(5, 0.5))
    assert relation(problem, problem.state) is Relation.EQUAL
    assert relation(problem, planted) is Relation.SAME
    assert relation(problem, noisy) is Relation.PERMUTED
    assert relation(problem, problem.noisy(5, 0.2)) is Relation.ONE_BASIN
    assert relation(problem, example(name, seed=2).state) is Relation.UNRELATED


@pytest.mark.parametrize("name", NETWORKS)
def test_models_that_were_not_matched_are_told_apart(name):
    problem = example(name)
    noisy = problem.permuted(problem.draw(3), problem.noisy(5, 0.2))
    assert present(problem, problem.noisy(5, 0.2)) is Relation.ONE_BASIN
    assert present(problem, problem.permuted(problem.draw(3))) is Relation.REORDERED
    assert present(problem, noisy) is Relation.APART
    assert present(problem, example(name, seed=2).state) is Relation.APART


# chance is 0.2: NEAR lies at a cosine of 0.6, CLEAR at 0.24
@pytest.mark.parametrize(
    ("before", "after", "matched_is", "present_is"),
    [
        (0.0, 0.2, Relation.UNRELATED, Relation.APART),
        (0.0, 0.23, Relation.UNRELATED, Relation.APART),
        (0.0, 0.25, Relation.INDEPENDENT, Relation.APART),
        (0.25, 0.59, Relation.INDEPENDENT, Relation.INDEPENDENT),
        (0.0, 0.61, Relation.PERMUTED, Relation.APART),
        (0.61, 0.62, Relation.ONE_BASIN, Relation.ONE_BASIN),
        (0.61, 0.8, Relation.PERMUTED, Relation.ONE_BASIN),
    ],
)
def test_the_cosine_is_judged_by_where_it_lies_between_chance_and_one(
    before, after, matched_is, present_is
):
    found = UnitComparison({}, UnitFigures(None, None), Change(before, after), 0.2, alike=False)
    assert aligned_relation(Status.MOVED, found) is matched_is
    assert present_relation(found) is present_is


def test_a_spec_that_moves_nothing_says_so():
    problem = random_problem(
        WIDE, WIDE_SHAPES, head="groups: {a: {fixed: true}, b: {fixed: true}}\n"
    )
    other = random_state(WIDE_SHAPES, 9)
    match = problem.match(other)
    assert match.status is Status.NOTHING
    assert aligned_relation(match.status, figures(problem, other, {})) is Relation.FIXED


def test_relatives_of_which_some_units_moved_are_permuted():
    problem = example("mlp_sequential")
    order = {**still(problem), **dict(list(problem.draw(1).items())[:1])}
    assert relation(problem, problem.permuted(order, problem.noisy(5, 0.2))) is Relation.PERMUTED


@pytest.mark.skipif(not trained.CHECKPOINTS.is_dir(), reason="the shared checkpoints are not here")
@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        pytest.param("mlp_512x3", Relation.INDEPENDENT, marks=pytest.mark.slow),
        ("resnet20_bn_x1", Relation.UNRELATED),
        ("vit_small", Relation.UNRELATED),
    ],
)
def test_networks_trained_apart_are_never_taken_for_relatives(arch, expected):
    problem, other = trained.problem(arch), trained.load(arch, 1)
    assert relation(problem, other) is expected
    assert present(problem, other) is Relation.APART


@pytest.mark.parametrize("name", [*NETWORKS, "llama", "interleaved_groups"])
def test_the_figures_that_a_search_has_kept_are_those_of_the_models(name):
    problem, other, _ = matched(name)
    sources = InMemory(problem.state), InMemory(other)
    found = match_weights(*sources, problem.bound, detail="margins")
    measured, comparison = compare_models(*sources, problem.bound, found.permutations, "margins")
    assert measured.objective.after == pytest.approx(found.objective.after, rel=1e-9)
    assert measured.distance.before == pytest.approx(found.distance.before, rel=1e-9)
    assert comparison and found.comparison
    for group, figures in comparison.groups.items():
        kept = found.comparison.groups[group]
        assert kept.cosine == figures.cosine and kept.collapse == figures.collapse
        assert (kept.margin is None) == (figures.margin is None)
        if kept.margin and figures.margin:
            assert kept.margin.mean == pytest.approx(figures.margin.mean, abs=1e-6)
            assert kept.margin.nearest == figures.margin.nearest


def test_one_pass_measures_as_one_that_asks_for_nothing_more():
    problem, other, match = matched("char_gpt")
    sources = InMemory(problem.state), InMemory(other)
    plain, _ = compare_models(*sources, problem.bound, match.permutations, None)
    whole, _ = compare_models(*sources, problem.bound, match.permutations, "units")
    for one, two in ((plain.objective, whole.objective), (plain.distance, whole.distance)):
        assert (one.before, one.after) == pytest.approx((two.before, two.after), rel=1e-12)
    for a, b in zip(plain.groups, whole.groups, strict=True):
        assert (a.name, a.moved) == (b.name, b.moved)
        assert (a.cosine.after, a.gain) == pytest.approx((b.cosine.after, b.gain), rel=1e-9)


def test_every_stage_says_how_far_it_is():
    problem, other, _ = matched("char_gpt")
    said = []
    match_weights(
        InMemory(problem.state),
        InMemory(other),
        problem.bound,
        settings=Settings(effort="quick"),
        detail="margins",
        progress=lambda *how: said.append(how),
    )
    stages = {what: [done for name, done, _ in said if name == what] for what, _, _ in said}
    assert [*stages] == ["matching descriptors", "matching", "comparing", "how sure each unit is"]
    assert all(len({*done}) > 1 and done == sorted(done) for done in stages.values())
