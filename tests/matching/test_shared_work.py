"""Work that threads share: the same bits whoever does it, and no thread that waits for ever."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from weakref import ref

import pytest
import torch

from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.shared_work import INLINE, ROWS, add_product, portions, share
from rebasin_cli.matching.search.descent import OPERANDS, SOLVING, WORD, _affordable
from tests.matching.problems import random_problem


def test_what_was_shared_comes_in_order():
    with ThreadPoolExecutor(4) as pool:
        assert share(pool, lambda k: k * k, range(100)) == [k * k for k in range(100)]


def test_other_threads_help():
    # Each piece waits for the other: one thread alone would never come to an end.
    both = Barrier(2, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        assert sorted(share(pool, lambda _: both.wait(), range(2))) == [0, 1]


def test_a_thread_of_the_pool_may_share_its_work_when_all_others_do_so_too():
    with ThreadPoolExecutor(2) as pool:
        inner = [pool.submit(share, pool, lambda k: -k, range(50)) for _ in range(8)]
        assert [f.result(timeout=60) for f in inner] == [[-k for k in range(50)]] * 8


def test_what_goes_wrong_in_a_piece_is_raised():
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        share(pool, lambda k: 1 // k, range(3))


def test_a_thread_that_is_busy_keeps_nothing_of_what_others_have_done():
    columns, freed = torch.zeros(4), Event()
    kept = ref(columns)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(freed.wait, 60)
        share(pool, columns.__getitem__, range(4))
        del columns
        still = kept()
        freed.set()
    assert still is None


@pytest.mark.parametrize(
    ("sizes", "found"),
    [([], []), ([5], [[0]]), ([1, 1, 4, 4, 4], [[0, 1, 2], [3, 4]]), ([0, 0], [[0, 1]])],
)
def test_no_more_is_copied_at_a_time_than_two_of_the_largest(sizes, found):
    assert [list(part) for part in portions(range(len(sizes)), sizes)] == found


def test_a_product_has_the_same_bits_for_any_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randn(2, 2 * ROWS + 3, 40, generator=generator)
    found = [torch.zeros(len(rows), len(rows)) for _ in range(3)]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(5) as five:
        for pool, values in zip((INLINE, one, five), found, strict=True):
            add_product(pool, values, rows, columns)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert torch.allclose(found[0], rows @ columns.T, atol=1e-4)


def three_families(inputs):
    """Return three families of 4 units that share no block, each with so many inputs."""
    axes = [(f"{k}.w", f"[{k}, ~]", f"{k}.r", f"[~, {k}]") for k in "abc"]
    lines = [line for w, write, r, read in axes for line in (f"{w}: {write}", f"{r}: {read}")]
    sides = (("w", (4, inputs)), ("r", (inputs, 4)))
    shapes = {f"{k}.{side}": shape for k in "abc" for side, shape in sides}
    return list(families(random_problem(lines, shapes).bound).values())


@pytest.mark.parametrize(("room", "parts"), [(0, [1, 1, 1]), (32, [2, 1]), (64, [3])])
def test_assignments_side_by_side_fit_into_the_memory(room, parts):
    assert [len(part) for part in _affordable(three_families(3), room * SOLVING)] == parts


@pytest.mark.parametrize(("visits", "parts"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3])])
def test_products_side_by_side_fit_into_the_memory(visits, parts):
    room = visits * OPERANDS * WORD * 4 * 100
    assert [len(part) for part in _affordable(three_families(100), room)] == parts
