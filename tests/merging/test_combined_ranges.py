"""Models are combined range by range, with what combining their whole tensors gives."""

import itertools

import pytest
import torch

from rebasin_cli.merging.combination import COMBINATIONS, FROM_BASE, Combination
from rebasin_cli.merging.combined import combine_models
from rebasin_cli.merging.order_statistics import kth_size
from rebasin_cli.merging.weights import TensorWeights
from rebasin_cli.tensors.ranges import Kept, join_ranges, ranges_in_memory
from tests.merging.tuned import draw_models


class InRangesOnly(Kept):
    """A source whose tensors nobody loads, as they might be too large."""

    def __init__(self, source):
        super().__init__(source)
        self.longest = 0

    def load(self, name):
        raise AssertionError(f"{name} was loaded")

    def ranged(self, name):
        read = ranges_in_memory(self._source.load(name))

        def watched(begin, end):
            self.longest = max(self.longest, end - begin)
            return read(begin, end)

        return watched


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_models_are_combined_range_by_range(combine, dtype):
    sources = draw_models(4, (43, 7), dtype)
    sources = sources if combine in FROM_BASE else sources[:-1]
    how = Combination(combine, density=0.5, scale=0.7)
    made = made_of(sources, how)
    cuts = [0, 1, 7, 107, 200, 301]
    read = made_of([InRangesOnly(one) for one in sources], how).ranged("w")
    parts = [read(*part) for part in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts).reshape(43, 7), made.load("w"))


def made_of(sources, how, given=None):
    weights = TensorWeights(given or ((1.0, 0.5, -0.25) if how.from_base else (1.0, 0.5, 0.25)))
    return combine_models(sources, len(sources) - 1, weights, how, lambda _: True)


@pytest.mark.parametrize("combine", FROM_BASE)
def test_large_tensors_are_never_read_whole(combine):
    sources = [InRangesOnly(one) for one in draw_models(3, (700_000,), torch.float32)]
    made = made_of(sources, Combination(combine, density=0.5), (1.0, 1.0))
    made.load("w")
    assert max(one.longest for one in sources) <= 1 << 18


def test_what_dare_drops_does_not_depend_on_the_order_of_reading():
    ranges = [(0, 20), (20, 90), (90, 91), (91, 301)]
    sources, how = draw_models(4, (301,)), Combination("dare", 0.5)
    kept = [Kept(one) for one in sources]
    back = made_of(kept, how).ranged("w")
    found = {part: back(*part) for part in reversed(ranges)}
    assert torch.equal(torch.cat([found[part] for part in ranges]), join_ranges(back, (301,)))
    assert torch.equal(join_ranges(back, (301,)), made_of(sources, how).load("w"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "alike", "tiny", "zero"])
def test_the_size_of_any_rank_is_that_of_sorting(kind, dtype):
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(999, generator=generator, dtype=torch.float64)
    scale = {"normal": 1.0, "alike": 0.0, "tiny": 1e-42, "zero": 0.0}[kind]
    values = (values * scale + (kind == "alike")).to(dtype)
    ranks = values.abs().sort().values
    for rank in (1, 2, 500, 998, 999):
        assert kth_size(ranges_in_memory(values), 999, rank) == ranks[rank - 1]
