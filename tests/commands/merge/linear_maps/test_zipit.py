"""Zipping: pairs one to one, merges inside a model and their budgets, against a slow copy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.commands.merge.linear_maps.zipit import correlations, zip_units


def covariance(samples):
    return torch.cov(samples.T.double(), correction=0)


def samples(count, units, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, units, generator=generator, dtype=torch.float64)


def zipped(*models, **more):
    table = correlations(covariance(torch.cat(models, 1)))
    return zip_units(table, len(models), **more)


def slow(table, models, alpha, beta):
    """The same by the letter: the whole table is looked at before every merge."""
    table, total = table.clone(), len(table)
    size = total // models
    table.fill_diagonal_(-torch.inf)
    unmerge, alive = torch.eye(total, dtype=torch.float64), list(range(total))
    budget = [int((total - size) / models * beta)] * models

    def shut(model):
        own = slice(model * size, (model + 1) * size)
        table[own, own] = -torch.inf

    for model in range(models):
        if not budget[model]:
            shut(model)
    while len(alive) > size:
        if table.max() == -torch.inf:
            return None  # there it says nothing
        kept, gone = sorted(divmod(int(table.argmax()), total))
        row = torch.minimum(table[kept], table[gone]) * alpha
        table[kept], table[:, kept] = row, row
        table[gone], table[:, gone] = -torch.inf, -torch.inf
        unmerge[:, kept] += unmerge[:, gone]
        alive.remove(gone)
        if kept // size == gone // size:
            budget[kept // size] -= 1
            if not budget[kept // size]:
                shut(kept // size)
    unmerge = unmerge[:, alive]
    return (unmerge / unmerge.sum(0)).T, unmerge


def inside(found):
    """Return how many units are merged with another of their own model."""
    taken = found.unmerge.unflatten(0, (-1, found.unmerge.shape[1])).sum(1)
    return int((taken - 1).clamp(min=0).sum())


@pytest.mark.parametrize("size", [1, 5, 40])
def test_a_permuted_copy_is_zipped_unit_for_unit(size):
    x = samples(300, size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(3))
    found = zipped(x, x[:, order])
    first, second = found.maps
    assert inside(found) == 0
    assert torch.equal(first.write, torch.eye(size).double())
    assert torch.equal(second.write, torch.eye(size).double()[:, order].contiguous())
    assert torch.equal(second.read, second.write.T)


def test_means_of_maps_are_the_merge_and_every_unit_has_one_place():
    found = zipped(samples(200, 6), samples(200, 6, 1), samples(200, 6, 2))
    assert found.merge.shape == (6, 18)
    assert found.unmerge.shape == (18, 6)
    assert torch.equal(found.unmerge.sum(1), torch.ones(18).double())
    assert torch.allclose(found.merge.sum(1), torch.ones(6).double())
    assert torch.allclose(found.merge @ found.unmerge, torch.eye(6).double())
    whole = torch.cat([one.write for one in found.maps], 1) / 3
    assert torch.allclose(whole, found.merge)


def test_twins_inside_a_model_make_room_within_the_budget():
    rest, other = samples(400, 16), samples(400, 16, 1)
    twins = torch.cat([rest[:, :8], rest[:, :8]], 1)  # eight units, each twice
    assert inside(zipped(twins, other, beta=0.0)) == 0
    assert inside(zipped(twins, other, beta=0.125)) <= 2  # one in each model
    free = zipped(twins, other, beta=1.0)
    assert inside(free) >= 8
    assert torch.equal(free.unmerge[:8], free.unmerge[8:16])


def test_units_that_never_vary_are_merged_before_live_ones_that_are_alike():
    x = samples(300, 3)
    x[:, 1] = x[:, 0] + 0.2 * x[:, 1]
    x[:, 2] = 0.0
    y = x.clone()
    y[:, 2] = 5.0
    found = zipped(x, y, beta=1.0)
    assert torch.equal(found.unmerge, torch.eye(3).double().repeat(2, 1))


def test_with_alpha_zero_no_unit_takes_two_of_one_model():
    found = zipped(samples(300, 9), samples(300, 9, 1), alpha=0.0)
    assert inside(found) == 0
    for one in found.maps:
        assert torch.equal(one.write.count_nonzero(1), torch.ones(9).long())


def test_limits_that_leave_no_pair_are_lifted():
    # AB, BC, CA are the best pairs: with three models nothing is left that may be merged
    table = torch.full((6, 6), 0.1)
    for a, b in ((0, 2), (3, 4), (1, 5)):
        table[a, b] = table[b, a] = 0.9
    found = zip_units(table, 3, alpha=0.0, beta=0.0)
    assert found.merge.shape == (2, 6)
    assert torch.equal(found.unmerge.sum(1), torch.ones(6).double())


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(1, 7),
    models=st.integers(2, 3),
    alpha=st.sampled_from([0.3, 1.0]),
    beta=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
    seed=st.integers(0, 1000),
    shift=st.sampled_from([0.0, 1.5]),  # all negative: alpha makes merged units likelier
)
def test_the_table_kept_up_to_date_gives_what_looking_at_all_of_it_does(
    size, models, alpha, beta, seed, shift
):
    table = correlations(covariance(samples(50, size * models, seed))) - shift
    found = zip_units(table, models, alpha=alpha, beta=beta)
    expected = slow(table, models, alpha, beta)
    if expected is not None:
        merge, unmerge = expected
        assert torch.equal(found.unmerge, unmerge)
        assert torch.allclose(found.merge, merge)


def test_correlations_are_pearsons():
    x = samples(60, 5)
    assert torch.allclose(correlations(covariance(x)), torch.corrcoef(x.T))
