"""Values made in threads: in their order, no more of them ahead than said."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest
import torch

from rebasin_cli.tensors.ahead import made_ahead
from rebasin_cli.tensors.torch_threads import one_thread


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
