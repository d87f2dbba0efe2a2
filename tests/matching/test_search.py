"""How a search ends, what moves and what does not, and that only the models decide."""

import pytest
import torch

from rebasin_cli.errors import NotFiniteError, UsageError
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.result import Status
from rebasin_cli.matching.search.descent import Descent
from rebasin_cli.matching.search.pair_search import Attempt
from rebasin_cli.permutation import Permutation, inverse
from rebasin_cli.tensors import InMemory
from tests.matching.problems import (
    example,
    mlp,
    objective,
    random_problem,
    random_state,
    same,
    still,
)

# how it ends


@pytest.mark.parametrize("name", ["mlp_sequential", "char_gpt"])
def test_identical_models_are_equal_and_nothing_moves(name):
    problem = example(name)
    found = problem.match(dict(problem.state))
    assert found.status is Status.EQUAL
    assert same(found.permutations, still(problem))


@pytest.mark.parametrize("name", ["mlp_sequential", "resnet20_stages", "char_gpt", "moe"])
def test_a_pair_that_is_aligned_already_stays(name):
    problem, other = example(name, 1), example(name, 2).state
    aligned = problem.permuted(problem.match(other).permutations, other)
    again = problem.match(aligned, starts=("identity",))
    assert again.status is Status.STAYED
    assert same(again.permutations, still(problem))


def test_a_better_order_is_reported_as_moved():
    found = mlp(1).match(mlp(2).state)
    assert found.status is Status.MOVED
    assert found.objective.after > found.objective.before


def test_without_a_group_there_is_nothing_to_do():
    problem = random_problem(["a: [~, ~]"], {"a": (2, 3)})
    found = problem.match(random_state({"a": (2, 3)}, seed=1))
    assert (found.status, found.permutations) == (Status.NOTHING, {})


def test_with_nothing_movable_there_is_nothing_to_do():
    problem = mlp(1)
    found = problem.match(mlp(2).state, movable=frozenset())
    assert found.status is Status.NOTHING
    assert same(found.permutations, still(problem))


def test_a_group_on_two_axes_is_visited_until_it_rises_no_more():
    problem, other = example("mlp_residual", 1), example("mlp_residual", 11).state
    found = problem.match(other, starts=("identity",))
    assert len(found.history) > 2
    aligned = problem.permuted(found.permutations, other)
    assert len(problem.match(aligned, starts=("identity",)).history) == 1


def test_a_limit_of_visits_is_reported():
    problem, other = example("mlp_sequential", 1), example("mlp_sequential", 2).state
    assert problem.match(other, visits=1, method="weights").status is Status.LIMIT


def test_a_start_that_does_not_exist_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError) as caught:
        mlp(1).match(mlp(2).state, starts=("identiy",))
    assert str(caught.value) == "no start is called 'identiy'\nhint: did you mean 'identity'?"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("broken", "label"), [(0, "left.pt"), (1, "right.pt")])
def test_a_value_that_is_not_finite_is_an_error_that_names_tensor_and_model(value, broken, label):
    problem = mlp(1)
    states = [dict(problem.state), dict(mlp(2).state)]
    states[broken]["out.weight"] = states[broken]["out.weight"].clone()
    states[broken]["out.weight"][1, 1] = value
    a, b = map(InMemory, states)
    with pytest.raises(NotFiniteError, match=f"^{label}: tensor 'out.weight' holds NaN or inf"):
        match_weights(a, b, problem.bound, labels=("left.pt", "right.pt"))


# who votes


def test_buffers_do_not_vote():
    problem, other = example("resnet20_stages", 1), example("resnet20_stages", 2).state
    found = problem.match(other).permutations
    for seed, state in enumerate((problem.state, other)):
        for name in [n for n in state if n.endswith("running_var")]:
            noise = torch.rand(len(state[name]), generator=torch.Generator().manual_seed(seed))
            state[name] = 1e6 * noise
    assert same(problem.match(other).permutations, found)


def test_a_buffer_moves_with_the_group_it_belongs_to():
    problem, other = example("resnet20_stages", 1), example("resnet20_stages", 2).state
    aligned = problem.permuted(problem.match(other).permutations, other)
    origin = [other["norm1.weight"].tolist().index(w) for w in aligned["norm1.weight"]]
    assert origin != sorted(origin)
    for name in ("norm1.running_mean", "norm1.running_var", "conv1.weight"):
        assert torch.equal(aligned[name], other[name][origin])


def test_a_vector_votes():
    """Only the biases tell the units apart."""
    problem = mlp()
    for name in ("inp.weight", "out.weight"):
        problem.state[name].fill_(1.0)
    other, answer = problem.planted(4)
    assert same(problem.match(other).permutations, answer)


@pytest.mark.parametrize("start", [("descriptor",), ("identity",), ("descriptor", "identity")])
def test_dead_units_stay_where_they_are_while_others_move(start):
    problem = mlp()
    for name, axis in (("inp.weight", 0), ("inp.bias", 0), ("out.weight", 1)):
        problem.state[name].movedim(axis, 0)[[0, 2, 5]] = 0.0
    moved = Permutation(torch.tensor([0, 4, 2, 1, 3, 5]))
    found = problem.match(problem.permuted({"h": moved}), starts=start)
    assert same(found.permutations, inverse({"h": moved}))


def test_a_small_gain_is_a_reason_to_move():
    """Two units differ by 2 % in one tensor: of the scale of the objective, some 1e-5."""
    problem = mlp()
    for name, axis in (("inp.weight", 0), ("inp.bias", 0), ("out.weight", 1)):
        units = problem.state[name].movedim(axis, 0)
        units[1] = units[0] * (1.02 if name == "inp.weight" else 1.0)
    swapped = {"h": Permutation(torch.tensor([1, 0, 2, 3, 4, 5]))}
    found = problem.match(problem.permuted(swapped), starts=("identity",))
    assert same(found.permutations, swapped)


CHAIN = ["a: [x, ~]", "b: [y, x]", "c: [z, y]", "d: [~, z]"]
CHAIN_SHAPES = {"a": (64, 16), "b": (64, 64), "c": (64, 64), "d": (4, 64)}


@pytest.mark.parametrize("seed", [1, 5, 7])
def test_descriptors_follow_a_chain_from_its_known_end(seed):
    """Then each layer is matched on weights in place, and all of them on more than by a descent."""
    problem, other = (random_problem(CHAIN, CHAIN_SHAPES, seed=k) for k in (seed, seed + 1))
    ends = {
        start: problem.match(other.state, method="weights", starts=(start,))
        for start in ("descriptor", "identity")
    }
    assert ends["descriptor"].history[0] > ends["identity"].objective.after


def attempt(start, value):
    return Attempt("weights", start, Descent({}, (), True), value)


@pytest.mark.parametrize("start", ["descriptor", "random", "given"])
def test_of_two_starts_worth_the_same_the_identity_is_preferred(start):
    assert attempt("identity", 5.0).beats(attempt(start, 5.0))
    assert not attempt(start, 5.0).beats(attempt("identity", 5.0))


@pytest.mark.parametrize("start", ["descriptor", "identity"])
def test_a_start_that_reaches_more_is_preferred(start):
    assert attempt(start, 5.001).beats(attempt("random", 5.0))
    assert not attempt(start, 5.0).beats(attempt("random", 5.001))


def test_a_perfect_match_ends_the_search():
    """Or else this would take days."""
    problem = example("mlp_sequential")
    other, answer = problem.planted(3)
    found = problem.match(other, effort="best", restarts=10**7)
    assert same(found.permutations, answer)


# what may move


def test_families_that_may_not_move_stay():
    problem, other = example("char_gpt", 1), example("char_gpt", 2).state
    found = problem.match(other, movable=frozenset({"hidden.0", "head.1"})).permutations
    moved = {name for name, permutation in found.items() if permutation.moved}
    assert moved == {"hidden.0", "head.1", "qk.1", "vo.1"}


def test_what_may_move_is_aligned_next_to_what_may_not():
    problem = example("char_gpt")
    permutations = problem.draw(1)
    for name in ("stream", "hidden.2"):
        permutations[name] = still(problem)[name]
    other = problem.permuted(permutations)
    movable = frozenset(n for n, g in problem.bound.groups.items() if not g.parents)
    found = problem.match(other, movable=movable - {"stream", "hidden.2"})
    assert same(found.permutations, inverse(permutations))


def test_a_search_that_is_given_the_planted_order_stays_there():
    problem = example("char_gpt", 1)
    permutations = problem.draw(5)
    other = problem.permuted(permutations, problem.noisy(seed=3, amount=0.3))
    found = problem.match(other, initial=inverse(permutations))
    assert found.start == "given"
    assert len(found.history) == 1
    assert same(found.permutations, inverse(permutations))


def test_a_search_begins_at_the_order_it_is_given():
    problem, other = example("mlp_sequential", 1), example("mlp_sequential", 2).state
    initial = problem.draw(3)
    found = problem.match(other, initial=initial)
    start = objective(problem, problem.state, other, initial)
    assert found.history[0] == pytest.approx(start, abs=1e-5 * found.objective.after)


# only the models decide


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("name", ["resnet20_stages", "moe"])
@pytest.mark.parametrize("jobs", [2, 4])
def test_the_number_of_threads_does_not_matter(name, jobs):
    problem, other = example(name, 1), example(name, 2).state
    alone = problem.match(other, jobs=1)
    together = problem.match(other, jobs=jobs)
    assert same(together.permutations, alone.permutations)
    assert (together.objective, together.history) == (alone.objective, alone.history)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_gives_the_same_result(seed):
    problem, other = example("resnet20_stages", 1), example("resnet20_stages", 2).state
    first, second = (problem.match(other, seed=seed, restarts=1) for _ in range(2))
    assert same(first.permutations, second.permutations)
    assert first.history == second.history


def test_seeds_search_in_different_orders():
    problem, other = example("resnet20_stages", 1), example("resnet20_stages", 2).state
    found = [problem.match(other, seed=seed, starts=("identity",)) for seed in range(3)]
    assert len({matching.history for matching in found}) > 1


@pytest.mark.parametrize("name", ["resnet20_stages", "interleaved_heads"])
@pytest.mark.parametrize("max_memory", [0, 20_000])
def test_memory_for_few_tensors_or_none_gives_the_same_result(name, max_memory):
    problem, other = example(name, 1), example(name, 2).state
    large = problem.match(other, method="weights")
    small = problem.match(other, max_memory=max_memory, method="weights")
    assert same(small.permutations, large.permutations)
    assert small.history == large.history


@pytest.mark.parametrize("name", ["mlp_sequential", "char_gpt"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_narrow_dtype_matches_as_well_as_its_values_in_float32(name, dtype):
    problem, other = example(name, 1, dtype), example(name, 2, dtype).state
    wide = [{n: v.float() for n, v in state.items()} for state in (problem.state, other)]
    narrow = problem.match(other)
    assert same(narrow.permutations, problem.match(wide[1], wide[0]).permutations)


def test_products_that_overflow_float16_are_summed_in_float32():
    problem = mlp(dtype=torch.float16)
    for values in problem.state.values():
        values.mul_(1000)
    other, answer = problem.planted(2)
    assert same(problem.match(other).permutations, answer)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_weights_does_not_matter(scale):
    problem, other = example("char_gpt", 1), example("char_gpt", 2).state
    found = problem.match(other).permutations
    scaled = [{n: v * scale for n, v in state.items()} for state in (problem.state, other)]
    assert same(problem.match(scaled[1], scaled[0]).permutations, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20_stages", "mlp_residual", "lstm"])
def test_more_restarts_never_make_the_objective_worse(name):
    problem, other = example(name, 1), example(name, 2).state
    reached = [problem.match(other, restarts=count).objective.after for count in (0, 1, 2)]
    assert reached[0] <= reached[1] * (1 + 1e-6) and reached[1] <= reached[2] * (1 + 1e-6)


@pytest.mark.parametrize("name", ["resnet20_stages", "mlp_residual", "lstm"])
def test_two_starts_are_no_worse_than_either(name):
    problem, other = example(name, 1), example(name, 2).state
    both = problem.match(other).objective.after
    for start in ("descriptor", "identity"):
        alone = problem.match(other, starts=(start,)).objective.after
        assert both >= alone * (1 - 1e-6)


def test_a_search_leaves_the_number_of_threads_of_the_program_alone():
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        a, b = (InMemory(mlp(seed).state) for seed in (1, 2))
        match_weights(a, b, mlp().bound, progress=lambda *_: seen.append(torch.get_num_threads()))
        assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_a_search_does_not_change_the_models():
    problem, other = example("lstm", 1), example("lstm", 2).state
    copies = [{n: v.clone() for n, v in state.items()} for state in (problem.state, other)]
    problem.match(other)
    for state, copy in zip((problem.state, other), copies, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in copy)
