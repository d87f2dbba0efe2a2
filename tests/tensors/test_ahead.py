"""Values made in threads: in their order, no more of them ahead than said."""

from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from threading import Event, Lock

import pytest
import torch

from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.ahead import made_ahead
from rebasin_cli.tensors.one_thread import one_thread
from rebasin_cli.tensors.ranges import Ending, Kept, ranges_of


def test_values_come_in_order_though_later_ones_are_made_first():
    later = Event()

    def make(number):
        if number == 0:
            assert later.wait(60)
        if number == 2:
            later.set()
        return number

    with ThreadPoolExecutor(3) as pool:
        makers = [partial(make, number) for number in range(20)]
        assert list(made_ahead(makers, pool, most=3)) == list(range(20))


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_are_begun_ahead_than_said(most):
    begun = []

    def make(number):
        begun.append(number)
        return number

    with ThreadPoolExecutor(4) as pool:
        makers = (partial(make, number) for number in range(20))
        for used, number in enumerate(made_ahead(makers, pool, most=most)):
            assert used == number
            assert len(begun) <= used + max(most, 1)
    assert sorted(begun) == list(range(20))


def test_an_error_comes_at_its_turn():
    def make(number):
        return 6 // (3 - number)

    seen = []
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        for value in made_ahead([partial(make, number) for number in range(9)], pool, most=4):
            seen.append(value)
    assert seen == [2, 3, 6]


def test_threads_made_meanwhile_keep_torch_on_one_thread_too():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread(), ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_has_ended_gives_nothing_more():
    source = Kept(InMemory({"a": torch.arange(6)}))
    ended = Event()
    ending = Ending(source, ended)
    read = ranges_of(ending, "a")
    assert read is not None
    assert read(2, 4).tolist() == [2, 3]
    ended.set()
    for ask in (lambda: read(0, 1), lambda: ending.load("a")):
        with pytest.raises(CancelledError):
            ask()


def test_threads_that_share_a_kept_source_load_a_tensor_once():
    loads, lock = [], Lock()
    both = Event()

    class Counted(InMemory):
        def load(self, name):
            with lock:
                loads.append(name)
            both.wait(0.1)  # a second load would begin meanwhile
            return super().load(name)

    kept = Kept(Counted({"a": torch.arange(6)}))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(kept.load, ["a", "a"]))
    assert loads == ["a"]
    assert found[0] is found[1]
