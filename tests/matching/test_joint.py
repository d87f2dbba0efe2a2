"""A group and all groups inside it, solved together, against every joint permutation there is."""

from itertools import permutations, product
from math import prod

import pytest
import torch

from rebasin_cli.matching.assignment.enumerated_pairs import ENUMERATED
from rebasin_cli.permutation import Permutation
from tests.matching.problems import objective, random_problem, random_state, still

SEEDS = range(2)

# Spec lines, shapes and groups of problems with one family: what every visit must solve exactly.
HEADS_AND_DIMS = (
    ["in: ['head * d', ~]", "b: ['head * d']", "out: [~, 'head * d']"],
    {"in": (6, 4), "b": (6,), "out": (4, 6)},
    "groups: {head: {size: 3}, d: {per: head}}\n",
)
QUERIES_AND_VALUES = (
    ["qkv: ['head * qk + head * qk + head * vo', ~]", "out: [~, 'head * vo']"],
    {"qkv": (18, 4), "out": (4, 6)},
    "groups: {head: {size: 3}, qk: {per: head}, vo: {per: head}}\n",
)
WITH_ROWS_OF_THE_HEAD = (
    ["qkv: ['head * (qk + qk + vo)', ~]", "out: [~, 'head * vo']", "scale: [head, ~]"],
    {"qkv": (14, 4), "out": (4, 6), "scale": (2, 3)},
    "groups: {head: {size: 2}, qk: {per: head, size: 2}, vo: {per: head}}\n",
)
NESTED = (
    ["in: ['a * b * c', ~]", "mid: [~, 'a * b']", "out: [~, 'a * b * c']", "b.in: ['a * b', ~]"],
    {"in": (8, 3), "mid": (3, 4), "out": (3, 8), "b.in": (4, 2)},
    "groups: {a: {size: 2}, b: {per: a, size: 2}, c: {per: b}}\n",
)
GROUPED_QUERIES = (  # q and vo meet in `out`
    ["q: ['kv * q * 2', ~]", "k: ['kv * 2', ~]", "v: ['kv * vo', ~]", "out: [~, 'kv * q * vo']"],
    {"q": (12, 3), "k": (4, 3), "v": (4, 3), "out": (3, 12)},
    "groups: {kv: {size: 2}, q: {per: kv, size: 3}, vo: {per: kv}}\n",
)
FEW_QUERIES = (  # the same, with fewer queries than dims
    GROUPED_QUERIES[0],
    {"q": (8, 3), "k": (4, 3), "v": (6, 3), "out": (3, 12)},
    "groups: {kv: {size: 2}, q: {per: kv, size: 2}, vo: {per: kv}}\n",
)
GROUPED_QUERIES_WITH_DIMS = (  # the same, and another group inside each query
    [
        "q: ['kv * q * d', ~]",
        "u: [~, 'kv * q * d']",
        "v: ['kv * vo', ~]",
        "out: [~, 'kv * q * vo']",
    ],
    {"q": (8, 3), "u": (3, 8), "v": (4, 3), "out": (3, 8)},
    "groups: {kv: {size: 2}, q: {per: kv, size: 2}, d: {per: q}, vo: {per: kv, size: 2}}\n",
)
HEADS_THAT_STAY = (
    QUERIES_AND_VALUES[0],
    QUERIES_AND_VALUES[1],
    "groups: {head: {size: 3, fixed: true}, qk: {per: head}, vo: {per: head}}\n",
)
KEYS_THAT_STAY = (  # q and vo meet inside each of them
    GROUPED_QUERIES[0],
    GROUPED_QUERIES[1],
    "groups: {kv: {size: 2, fixed: true}, q: {per: kv, size: 3}, vo: {per: kv}}\n",
)
QUERIES_THAT_STAY = (
    GROUPED_QUERIES[0],
    GROUPED_QUERIES[1],
    "groups: {kv: {size: 2}, q: {per: kv, size: 3, fixed: true}, vo: {per: kv}}\n",
)
QUERIES_THAT_STAY_WITH_DIMS = (  # d moves inside each query, vo meets the queries
    GROUPED_QUERIES_WITH_DIMS[0],
    GROUPED_QUERIES_WITH_DIMS[1],
    "groups: {kv: {size: 2}, q: {per: kv, size: 2, fixed: true}, d: {per: q}, "
    "vo: {per: kv, size: 2}}\n",
)
QUERIES_THAT_STAY_ALONE = (  # nothing votes for what is inside them: vectors among buffers do not
    ["q: ['kv * q * d']", *GROUPED_QUERIES_WITH_DIMS[0][2:]],
    {"q": (8,), "v": (4, 3), "out": (3, 8)},
    QUERIES_THAT_STAY_WITH_DIMS[2].replace("per: q}", "per: q, one-sided: true}")
    + "buffers: [q]\n",
)
DIMS_THAT_STAY = (
    HEADS_AND_DIMS[0],
    HEADS_AND_DIMS[1],
    "groups: {head: {size: 3}, d: {per: head, fixed: true}}\n",
)
MIDDLE_THAT_STAYS = (
    NESTED[0],
    NESTED[1],
    NESTED[2].replace("size: 2}, c", "size: 2, fixed: true}, c"),
)
FAMILIES = {
    "heads and dims": HEADS_AND_DIMS,
    "queries and values": QUERIES_AND_VALUES,
    "rows of the head": WITH_ROWS_OF_THE_HEAD,
    "nested": NESTED,
    "grouped queries": GROUPED_QUERIES,
    "few queries": FEW_QUERIES,
    "grouped queries with dims": GROUPED_QUERIES_WITH_DIMS,
    "heads that stay": HEADS_THAT_STAY,
    "keys that stay": KEYS_THAT_STAY,
    "queries that stay": QUERIES_THAT_STAY,
    "queries that stay with dims": QUERIES_THAT_STAY_WITH_DIMS,
    "queries that stay alone": QUERIES_THAT_STAY_ALONE,
    "dims that stay": DIMS_THAT_STAY,
    "middle that stays": MIDDLE_THAT_STAYS,
}
SQUARE_INSIDE = (  # quadratic in the group inside the head
    ["in: ['head * u', ~]", "rec: [head, u, u]", "out: [~, 'head * u']"],
    {"in": (6, 3), "rec": (2, 3, 3), "out": (3, 6)},
    "groups: {head: {size: 2}, u: {per: head}}\n",
)
SQUARE_GATES_INSIDE = (  # the same with four gates in a row, as block-diagonal LSTMs have it
    ["in: ['head * 4 * u', ~]", "rec: ['head * u', '4 * u']", "out: [~, 'head * u']"],
    {"in": (24, 3), "rec": (6, 12), "out": (3, 6)},
    "groups: {head: {size: 2}, u: {per: head, size: 3}}\n",
)
QUADRATIC = {"square": SQUARE_INSIDE, "square gates": SQUARE_GATES_INSIDE}


def every_index(group):
    """Yield every index that a group may have: an order for each place of its parents."""
    orders = permutations(range(group.size)) if not group.fixed else [range(group.size)]
    rows = [torch.tensor(order) for order in orders]
    for chosen in product(rows, repeat=prod(group.shape[:-1])):
        yield torch.stack(chosen).reshape(group.shape)


def best_of_all(problem, other):
    """Return the highest objective of all joint permutations."""
    groups = problem.bound.groups.values()
    return max(
        objective(
            problem,
            problem.state,
            other,
            {g.name: Permutation(i, g.parents) for g, i in zip(groups, chosen, strict=True)},
        )
        for chosen in product(*(list(every_index(group)) for group in groups))
    )


def pair(family, seed):
    lines, shapes, head = family
    problem = random_problem(lines, shapes, head=head, seed=seed, dtype=torch.float64)
    return problem, random_state(shapes, seed + 1000, torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_solved_as_well_as_by_trying_everything(name):
    for seed in SEEDS:
        problem, other = pair(FAMILIES[name], seed)
        found = problem.match(other, starts=("identity",))
        assert found.objective.after == pytest.approx(best_of_all(problem, other), rel=1e-9)
        assert len(found.history) == 1 + (found.moved > 0)  # one visit settles it


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_solved_exactly_from_a_start_that_is_not_the_identity(name):
    problem, other = pair(FAMILIES[name], seed=9)
    best = best_of_all(problem, other)
    for seed in range(3):
        found = problem.match(other, initial=problem.draw(seed))
        assert found.objective.after == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("name", QUADRATIC)
def test_a_group_twice_inside_one_parent_ends_no_lower_than_it_began(name):
    for seed in SEEDS:
        problem, other = pair(QUADRATIC[name], seed)
        start = problem.draw(seed)
        found = problem.match(other, initial=start)
        before = objective(problem, problem.state, other, start)
        assert found.objective.after >= before


@pytest.mark.parametrize("name", QUADRATIC)
def test_a_group_twice_inside_one_parent_is_solved_as_well_as_by_trying_everything(name):
    assert ENUMERATED >= 6  # three units are tried in every order
    for seed in SEEDS:
        problem, other = pair(QUADRATIC[name], seed)
        found = problem.match(other, starts=("identity",))
        assert found.objective.after == pytest.approx(best_of_all(problem, other), rel=1e-9)


def grouped(seed, queries, dims):
    """Return two unrelated models with grouped queries; five are too many to enumerate."""
    lines, _, _ = GROUPED_QUERIES
    shapes = {"q": (2 * queries * 2, 5), "k": (4, 5), "v": (2 * dims, 5)}
    shapes["out"] = (5, 2 * queries * dims)
    head = f"groups: {{kv: {{size: 2}}, q: {{per: kv, size: {queries}}}, vo: {{per: kv}}}}\n"
    return pair((lines, shapes, head), seed)


def test_groups_too_large_to_enumerate_never_end_lower_than_they_began():
    for seed in range(5):
        problem, other = grouped(seed, queries=5, dims=6)
        start = problem.draw(seed)
        found = problem.match(other, initial=start)
        assert found.objective.after >= objective(problem, problem.state, other, start)


@pytest.mark.parametrize(("queries", "dims"), [(3, 5), (5, 3), (4, 4), (5, 6)])
def test_grouped_queries_are_recovered_when_planted(queries, dims):
    for seed in range(5):
        problem, _ = grouped(seed, queries, dims)
        other, answer = problem.planted(seed)
        assert problem.match(other, starts=("identity",)).permutations == answer


def test_a_family_that_is_in_its_best_order_stays_there():
    problem, other = pair(QUERIES_AND_VALUES, seed=3)
    best = problem.match(other).permutations
    assert problem.match(problem.permuted(best, other)).permutations == still(problem)


def test_dead_dims_inside_a_head_stay_where_they_are_when_others_move():
    problem, _ = pair(HEADS_AND_DIMS, seed=5)
    for name, axis in (("in", 0), ("b", 0), ("out", 1)):
        problem.state[name].movedim(axis, 0)[:2] = 0.0  # the dims of head 0
    start = still(problem)
    start["d"] = Permutation(torch.tensor([[1, 0], [1, 0], [0, 1]]), ("head",))
    found = problem.match(problem.noisy(seed=1, amount=0.1), initial=start).permutations
    assert found["d"].index.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_dead_heads_stay_where_they_are_when_others_move():
    problem, _ = pair(HEADS_AND_DIMS, seed=5)
    for name, axis in (("in", 0), ("b", 0), ("out", 1)):
        problem.state[name].movedim(axis, 0)[:4] = 0.0  # heads 0 and 1
    start = still(problem)
    start["head"] = Permutation(torch.tensor([1, 0, 2]))
    start["d"] = Permutation(torch.tensor([[0, 1], [0, 1], [1, 0]]), ("head",))
    found = problem.match(problem.noisy(seed=1, amount=0.1), initial=start).permutations
    assert found["head"].index.tolist() == [1, 0, 2]
    assert found["d"].index.tolist() == [[0, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize(("queries", "dims"), [(3, 2), (3, 4), (5, 6)])
def test_dead_queries_stay_where_they_are_when_others_move(queries, dims):
    problem, _ = grouped(5, queries, dims)
    for name, axis, count in (("q", 0, 2 * queries), ("out", 1, queries * dims)):
        problem.state[name].movedim(axis, 0)[:count] = 0.0  # the queries of head 0
    turned = torch.arange(queries).roll(1)
    start = still(problem)
    start["q"] = Permutation(torch.stack([turned, turned]), ("kv",))
    found = problem.match(problem.noisy(seed=1, amount=0.1), initial=start).permutations
    assert torch.equal(found["q"].index, torch.stack([turned, torch.arange(queries)]))
