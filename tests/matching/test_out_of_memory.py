"""A device without room: smaller pieces, then the CPU, and always the permutations of the CPU."""

import warnings

import pytest
import torch

from rebasin_cli.errors import ShortageWarning
from rebasin_cli.matching import match_weights
from rebasin_cli.matching.problem import similarity_cache
from rebasin_cli.matching.problem.shared_work import INLINE, ROWS, add_product
from tests.matching.fake_device import CUDA, FakeDevice
from tests.matching.problems import example, random_problem, same

WIDE = ["inp.weight: [h, ~]", "mid.weight: [g, h]", "out.weight: [~, g]"]
SHAPES = {"inp.weight": (300, 20), "mid.weight": (300, 300), "out.weight": (10, 300)}
MUCH = 1 << 40


def matched(device, room, problem, other, **settings):
    """Return a matching, the device, and what was told of it."""
    with FakeDevice(room) as fake, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = problem.match(other, device=device, **settings)
    return found, fake, {str(w.message) for w in told if w.category is ShortageWarning}


def wide():
    problem = random_problem(WIDE, SHAPES)
    return problem, problem.noisy(1, 3.0)


@pytest.mark.parametrize(
    ("method", "room"),
    [
        *(("weights", room) for room in (MUCH, 400_000, 300_000, 100_000, 3_000, 0)),
        *(("frank-wolfe", room) for room in (MUCH, 3_000)),
    ],
)
def test_with_any_room_the_permutations_are_those_of_the_cpu(method, room):
    problem, other = wide()
    other = problem.permuted(problem.draw(2), other)
    cpu, _, _ = matched("cpu", MUCH, problem, other, method=method)
    found, fake, told = matched("cuda", room, problem, other, method=method)
    assert same(found.permutations, cpu.permutations)
    assert found.objective.after == pytest.approx(cpu.objective.after, rel=1e-9)
    assert bool(told) == bool(fake.refused) == (room < MUCH)


@pytest.mark.parametrize("room", [400_000, 300_000, 100_000, 3_000])
def test_what_fits_stays_on_the_device_and_nothing_is_begun_anew(room, monkeypatch):
    def anew():
        raise AssertionError("the whole matching was begun anew")

    monkeypatch.setattr(match_weights, "empty_cache", anew)
    problem, other = wide()
    found, fake, _ = matched("cuda", room, problem, other, method="weights")
    cpu, _, _ = matched("cpu", MUCH, problem, other, method="weights")
    assert same(found.permutations, cpu.permutations)
    assert fake.uploads > 0


@pytest.mark.parametrize("name", ["llama", "interleaved_heads"])
def test_heads_come_out_the_same(name):
    problem = example(name)
    other = problem.permuted(problem.draw(2), problem.noisy(1, 1.0))
    cpu, _, _ = matched("cpu", MUCH, problem, other, effort="quick")
    for room in (MUCH, 2_000):
        found, fake, _ = matched("cuda", room, problem, other, effort="quick")
        assert same(found.permutations, cpu.permutations)
        assert bool(fake.refused) == (room < MUCH)


def product(room, rows):
    """Return a product on the device, and what it had no room for."""
    a, b = (torch.randn(rows, 40, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    with FakeDevice() as fake, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = torch.zeros(rows, rows).to(CUDA)
        rows_there, columns_there = a.to(CUDA), b.to(CUDA)
        fake.room = room
        add_product(INLINE, values, rows_there, columns_there)
    expected = torch.zeros(rows, rows)
    add_product(INLINE, expected, a, b)
    return values.as_subclass(torch.Tensor), expected, fake


@pytest.mark.parametrize(("pieces", "refused"), [(3, 0), (2, 1), (1, 2), (0, 5)])
def test_a_product_without_room_is_made_in_halves_down_to_the_pieces_of_the_cpu(pieces, refused):
    rows = 3 * ROWS
    values, expected, fake = product(4 * pieces * ROWS * rows, rows)
    assert fake.refused["addmm_"] == refused
    assert torch.allclose(values, expected, atol=1e-5)
    assert pieces or torch.equal(values, expected), "all of it was added as the CPU adds it"


def test_what_cannot_be_helped_is_raised_as_it_is():
    problem, other = wide()

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("no room anywhere")

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(similarity_cache, "add_product", refuse)
        with pytest.raises(torch.OutOfMemoryError, match="no room anywhere"):
            problem.match(other, method="weights", starts=("identity",))
