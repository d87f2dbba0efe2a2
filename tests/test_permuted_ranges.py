"""Permuted tensors made range by range are those made whole."""

import pytest
import torch

from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import InMemory
from tests.test_permutation import DTYPES, nested, numbered, tensor_of


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_permuted_tensor_in_ranges_is_that_tensor(dtype):
    tensor, p = tensor_of((5, "e"), (3, "a"), (2, None)), nested(6)
    whole = numbered(5, 3, 2).to(dtype)
    model = Permuted(InMemory({"t": whole}), [tensor], p)
    read = model.ranged_from_whole("t")
    if dtype.is_complex:
        assert read is None
        return
    assert read is not None
    flat = model.load("t").reshape(-1).view(torch.uint8)
    for begin, end in ((0, 30), (0, 1), (5, 6), (5, 13), (12, 18), (29, 30), (7, 7)):
        part = read(begin, end)
        assert part.dtype == dtype and part.shape == (end - begin,)
        size = dtype.itemsize
        assert torch.equal(part.view(torch.uint8), flat[begin * size : end * size])


def test_rows_that_do_not_move_are_ranged_too():
    tensor, p = tensor_of((4, None), (5, "e")), nested(7)
    model = Permuted(InMemory({"t": numbered(4, 5)}), [tensor], p)
    read = model.ranged_from_whole("t")
    assert read is not None
    assert torch.equal(read(3, 14), model.load("t").reshape(-1)[3:14])


def test_units_whose_order_depends_on_others_come_whole():
    tensor, p = tensor_of((3, "a"), (2, "b")), nested(1)
    assert p["b"].moved
    assert Permuted(InMemory({"t": numbered(3, 2)}), [tensor], p).ranged_from_whole("t") is None
