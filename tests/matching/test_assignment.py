"""One assignment: the best of all permutations, and no change without a reason."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.matching.assignment import lapx_solver, scipy_solver
from rebasin_cli.matching.assignment import linear as assignment
from rebasin_cli.matching.assignment.linear import assign

WHOLE = st.integers(-5, 5)
SQUARES = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(WHOLE, min_size=n, max_size=n), min_size=n, max_size=n)
)
DTYPES = [torch.float32, torch.float64]
SOLVERS = [lapx_solver, scipy_solver]


@pytest.fixture(autouse=True, scope="module", params=SOLVERS, ids=["lapx", "scipy"])
def _solver(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "columns", request.param.columns)
        yield


def value(similarity, index):
    return sum(row[k] for row, k in zip(similarity, index, strict=True))


@given(SQUARES, st.sampled_from(DTYPES))
@settings(max_examples=40)
def test_no_permutation_is_worth_more(rows, dtype):
    best = max(value(rows, order) for order in permutations(range(len(rows))))
    assert value(rows, assign(torch.tensor(rows, dtype=dtype)).tolist()) == best


@given(SQUARES, st.sampled_from(DTYPES), st.randoms())
@settings(max_examples=40)
def test_no_permutation_is_worth_more_from_whatever_is_in_place(rows, dtype, random):
    current = random.sample(range(len(rows)), len(rows))
    found = assign(torch.tensor(rows, dtype=dtype), torch.tensor(current)).tolist()
    assert value(rows, found) == max(value(rows, o) for o in permutations(range(len(rows))))


@given(SQUARES, st.sampled_from(DTYPES))
@settings(max_examples=40)
def test_among_equals_the_present_assignment_is_kept(rows, dtype):
    best = max(value(rows, order) for order in permutations(range(len(rows))))
    for order in permutations(range(len(rows))):
        if value(rows, order) == best:
            found = assign(torch.tensor(rows, dtype=dtype), torch.tensor(order))
            assert found.tolist() == list(order)


def test_rows_are_units_of_the_reference_and_columns_of_the_other():
    similarity = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert assign(similarity).tolist() == [1, 2, 0]


def test_units_without_a_preference_stay_while_others_move():
    similarity = torch.zeros(5, 5)
    similarity[0, 1] = similarity[1, 0] = 3.0  # units 2, 3, 4 are dead
    assert assign(similarity, torch.tensor([0, 1, 4, 2, 3])).tolist() == [1, 0, 4, 2, 3]


def test_nothing_moves_where_no_unit_has_a_preference():
    assert assign(torch.zeros(4, 4), torch.tensor([2, 0, 3, 1])).tolist() == [2, 0, 3, 1]


def test_a_difference_of_one_rounding_step_is_no_reason_to_move():
    eps = torch.finfo(torch.float32).eps
    similarity = torch.tensor([[1.0, 1.0 + eps], [1.0, 1.0]])
    assert assign(similarity, torch.tensor([0, 1])).tolist() == [0, 1]


def test_a_difference_of_a_thousand_rounding_steps_is_a_reason_to_move():
    similarity = torch.tensor([[1.0, 1.0001], [1.0, 1.0]])
    assert assign(similarity, torch.tensor([0, 1])).tolist() == [1, 0]


def test_one_unit_can_only_stay():
    assert assign(torch.tensor([[-7.0]])).tolist() == [0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_similarity_is_not_changed(dtype):
    similarity = torch.ones(3, 3, dtype=dtype)
    assign(similarity, torch.tensor([1, 2, 0]))
    assert torch.equal(similarity, torch.ones(3, 3, dtype=dtype))


def test_the_index_is_int64():
    assert assign(torch.eye(3)).dtype == torch.int64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_similarities_that_overflow_are_refused(dtype):
    similarity = torch.tensor([[1.0, 2.0], [torch.inf, 1.0]], dtype=dtype)
    with pytest.raises(NotFiniteError, match=rf"similarities overflow {str(dtype)[6:]}\n"):
        assign(similarity)
