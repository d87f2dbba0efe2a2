"""Tensors that are kept in memory, up to a limit, in the dtype in which they are compared."""

import pytest
import torch

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.matching.problem.device_tensors import DeviceTensors, working_dtype
from rebasin_cli.tensors import InMemory

BYTES = 40  # of ten values in float32


class Counted(InMemory):
    """A source that notes what is read from it."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.read = []

    def load(self, name):
        self.read.append(name)
        return super().load(name)


def reads(names, limit, *, dtype=torch.float16):
    """Return what a sequence of loads reads from the source when `limit` bytes are kept."""
    source = Counted({name: torch.ones(10, dtype=dtype) for name in "abc"})
    kept = loaded(source, limit=limit)
    for name in names:
        kept.load(name)
    return "".join(source.read)


def loaded(source, *, limit=1000, dtype=torch.float32):
    return DeviceTensors(source, label="m.pt", device=torch.device("cpu"), dtype=dtype, limit=limit)


@pytest.mark.parametrize(
    ("names", "limit", "read"),
    [
        ("aaabba", 2 * BYTES, "ab"),
        ("abcabc", 3 * BYTES, "abc"),
        ("abcabc", 3 * BYTES - 1, "abcabc"),  # the oldest goes, and is the next to be needed
        ("abacac", 2 * BYTES, "abc"),  # a was used after b, so b goes
        ("aa", BYTES - 1, "aa"),
        ("ab", 0, "ab"),
    ],
)
def test_the_tensors_used_last_are_kept_up_to_the_limit(names, limit, read):
    assert reads(names, limit) == read


def test_a_tensor_above_the_limit_drives_no_other_out():
    source = Counted({"small": torch.ones(10), "large": torch.ones(100)})
    kept = loaded(source, limit=2 * BYTES)
    for name in ("small", "large", "small"):
        kept.load(name)
    assert source.read == ["small", "large"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.int8], ids=str)
def test_what_is_loaded_has_the_dtype_in_which_it_is_compared(dtype):
    found = loaded(InMemory({"a": torch.ones(3).to(dtype)}), dtype=torch.float64).load("a")
    assert found.dtype == torch.float64
    assert found.tolist() == [1.0] * 3


def test_a_value_that_is_not_finite_is_found_before_it_is_kept():
    source = loaded(InMemory({"a": torch.tensor([1.0, float("nan")])}))
    for _ in range(2):
        with pytest.raises(NotFiniteError, match=r"^m\.pt: tensor 'a' holds NaN or infinity"):
            source.load("a")


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([torch.float16], torch.float32),
        ([torch.bfloat16, torch.float8_e5m2], torch.float32),
        ([torch.float32, torch.int64], torch.float32),
        ([torch.float16, torch.float64], torch.float64),
    ],
)
def test_models_are_compared_in_float32_unless_one_tensor_is_wider(dtypes, expected):
    sources = [InMemory({"a": torch.ones(2).to(dtype)}) for dtype in dtypes]
    assert working_dtype(torch.device("cpu"), *sources) == expected
