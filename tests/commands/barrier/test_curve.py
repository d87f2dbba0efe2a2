"""The two definitions of the barrier, and the plane through three models."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.commands.barrier.curve import Peak, barrier, share_removed, sign
from rebasin_cli.commands.barrier.plane import Plane, plane_through
from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import InMemory

numbers = st.floats(-100, 100)
inside = st.integers(1, 1023).map(lambda n: n / 1024)  # 1 - alpha is exact, so no two points meet
curves = st.builds(
    lambda ends, points: {0.0: ends[0], 1.0: ends[1], **points},
    st.tuples(numbers, numbers),
    st.dictionaries(inside, numbers, max_size=8),
)


def test_a_hand_computed_curve():
    found = barrier({0.0: 1.0, 0.25: 4.0, 0.5: 4.5, 1.0: 3.0})
    assert found.chord == Peak(4.0 - 1.5, 0.25)
    assert found.mean == Peak(4.5 - 2.0, 0.5)


def test_with_unequal_ends_the_definitions_differ_even_on_a_straight_line():
    found = barrier({0.0: 1.0, 0.5: 2.0, 1.0: 3.0})
    assert found.chord.height == 0
    assert found.mean == Peak(1.0, 1.0)


@given(curves)
def test_no_barrier_is_negative_and_its_place_is_a_point_of_the_curve(curve):
    found = barrier(curve)
    for peak in (found.chord, found.mean):
        assert peak.height >= 0
        assert peak.alpha in curve


@given(curves)
def test_the_chord_meets_the_ends_exactly(curve):
    ends = {alpha: curve[alpha] for alpha in (0.0, 1.0)}
    assert barrier(ends).chord == Peak(0.0, 0.0)


@given(curves, numbers)
def test_a_shift_of_all_values_changes_nothing(curve, shift):
    moved = barrier({alpha: value + shift for alpha, value in curve.items()})
    here = barrier(curve)
    assert moved.chord.height == pytest.approx(here.chord.height, abs=1e-9)
    assert moved.mean.height == pytest.approx(here.mean.height, abs=1e-9)


@given(curves)
def test_walking_the_other_way_meets_the_same_barrier(curve):
    back = barrier({1 - alpha: value for alpha, value in curve.items()})
    assert back.chord.height == pytest.approx(barrier(curve).chord.height, abs=1e-9)
    assert back.mean.height == pytest.approx(barrier(curve).mean.height, abs=1e-9)


@given(curves)
def test_an_accuracy_is_a_loss_upside_down(curve):
    upside_down = {alpha: -value for alpha, value in curve.items()}
    assert barrier(upside_down, sign=-1) == barrier(curve)


@given(curves, numbers)
def test_equal_ends_make_the_definitions_one(curve, end):
    curve = {**curve, 0.0: end, 1.0: end}
    found = barrier(curve)
    assert found.chord.height == pytest.approx(found.mean.height, abs=1e-9)


@given(curves, st.floats(1.5, 9), numbers)
def test_what_lies_beyond_the_ends_does_not_count(curve, outside, value):
    assert barrier({**curve, outside: value, -outside: value}) == barrier(curve)


def test_a_curve_without_an_end_has_no_barrier():
    with pytest.raises(KeyError):
        barrier({0.0: 1.0, 0.5: 2.0})


def test_what_is_removed_is_a_share_of_what_was():
    assert share_removed(Peak(4.0, 0.5), Peak(1.0, 0.2)) == 0.75
    assert share_removed(Peak(4.0, 0.5), Peak(5.0, 0.2)) == -0.25
    assert share_removed(Peak(0.0, 0.0), Peak(1.0, 0.2)) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", 1),
        ("train_loss", 1),
        ("test/loss", 1),
        ("accuracy", -1),
        ("Top5 Accuracy", -1),
        ("glossy", 0),
        ("loss_of_weight", 0),
        ("perplexity", 0),
    ],
)
def test_the_last_word_of_a_name_says_which_way_is_better(name, expected):
    assert sign(name) == expected


def three(seed=0):
    """Return three models of two tensors, one of them an integer that does not count."""
    generator = torch.Generator().manual_seed(seed)

    def one():
        return InMemory(
            {
                "w": torch.randn(3, 4, generator=generator),
                "b": torch.randn(3, generator=generator),
                "n": torch.tensor(7),
            }
        )

    return one(), one(), one()


def flat(model):
    return torch.cat([model.load(name).double().flatten() for name in ("w", "b")])


def test_the_plane_keeps_the_distances_of_the_weights():
    models = three()
    a, b, c = models
    plane = plane_through(a, b, c, ["w", "b"])
    places = [torch.tensor(corner, dtype=torch.float64) for corner in plane.corners]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        there = (flat(models[i]) - flat(models[j])).norm()
        torch.testing.assert_close((places[i] - places[j]).norm(), there)
    assert plane.corner[1] > 0


sides = st.floats(0.1, 10)


@given(sides, st.floats(-5, 5), sides, st.floats(-3, 3), st.floats(-3, 3))
def test_weights_add_up_to_one_and_lead_to_their_place(base, along, height, x, y):
    plane = Plane(base, (along, height))
    weights = plane.weights((x, y))
    assert sum(weights) == pytest.approx(1)
    reached = [
        sum(w * corner[k] for w, corner in zip(weights, plane.corners, strict=True)) for k in (0, 1)
    ]
    assert reached == pytest.approx([x, y], abs=1e-6)


@given(sides, st.floats(-5, 5), sides)
def test_the_corners_are_the_models(base, along, height):
    plane = Plane(base, (along, height))
    for number, corner in enumerate(plane.corners):
        expected = [float(number == k) for k in range(3)]
        assert plane.weights(corner) == pytest.approx(expected, abs=1e-9)


def test_the_grid_goes_row_by_row_around_the_triangle():
    plane = Plane(2.0, (1.0, 4.0))
    assert plane.grid(3, 0.5) == [(x, y) for y in (-2.0, 2.0, 6.0) for x in (-1.0, 1.0, 3.0)]
    assert plane.grid(2, 0.0) == [(0, 0), (2, 0), (0, 4), (2, 4)]


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_models_on_a_line_have_no_plane(weight):
    a, b, _ = three()
    between = {name: torch.lerp(a.load(name), b.load(name), weight) for name in ("w", "b")}
    with pytest.raises(CheckpointError, match="the three models lie on a line"):
        plane_through(a, b, InMemory(between), ["w", "b"])
