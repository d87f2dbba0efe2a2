"""A null model has nothing in common with anything, and what exceeds it tells a planted class."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.symmetry import null_model
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.null_model import Scattered, Standing, permutation_standing, with_null
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.symmetry.small import NETS, case

CLASSES = ("its own", "permutation")


def classes_of(plan: FoldPlan, name: str) -> dict[str, str]:
    return plan.classes if name == "its own" else dict.fromkeys(plan.classes, name)


def scattered(plan: FoldPlan, state: Mapping[str, Tensor], name: str, seed: int = 3):
    source = Scattered(InMemory(state), plan, classes_of(plan, name), seed)
    return {key: source.load(key) for key in state}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", CLASSES)
def test_every_tensor_keeps_its_spectrum_and_nothing_else_of_the_stream(kind, name):
    found = case(kind)
    null = scattered(found.plan, found.folded, name)
    gains = found.plan.norms.keys() | found.plan.biases.keys()
    for key, tensor in found.plan.tensors.items():
        before, after = found.folded[key], null[key]
        if key in gains or "stream" not in tensor.groups:
            continue
        for block in tensor.blocks:
            axis = block.groups.index("stream")
            a, b = (block.view(t).movedim(axis, -1).reshape(-1, 12) for t in (before, after))
            assert not torch.allclose(a, b, atol=1e-3), key
            assert torch.allclose(a @ a.mT, b @ b.mT, atol=1e-9), key
    inside = [k for k, t in found.plan.tensors.items() if "stream" not in t.groups]
    assert all(torch.equal(null[key], found.folded[key]) for key in inside)


@pytest.mark.parametrize("name", CLASSES)
def test_no_two_tensors_or_blocks_are_moved_alike(name):
    found = case("layer norm")
    before, after = found.folded, scattered(found.plan, found.folded, name)
    products = [state["0.qkv.weight"] @ state["0.out.weight"] for state in (before, after)]
    for query, moved in zip(*(each.chunk(3) for each in products), strict=True):
        assert not torch.allclose(query, moved, atol=0.1)
    one, two = (state["0.qkv.weight"].chunk(3) for state in (before, after))
    assert not torch.allclose(one[0] @ one[1].mT, two[0] @ two[1].mT, atol=0.1)
    assert not torch.allclose(
        before["embed.weight"] @ before["head.weight"].mT,
        after["embed.weight"] @ after["head.weight"].mT,
        atol=0.1,
    )


def test_the_seed_decides_which_null_model_it_is():
    found = case("rotary")
    one, same, other = (scattered(found.plan, found.folded, "its own", s) for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.allclose(one["embed.weight"], other["embed.weight"])


def planted(kind: str, name: str, noise: float):
    """Return a folded net and a copy, moved by maps of a class, with noise on it."""
    found = case(kind)
    plan, generator = found.plan, torch.Generator().manual_seed(5)
    groups = (plan.bound if name == "permutation" else plan.moving).groups.values()
    maps = draw_maps(groups, classes_of(plan, name), generator)
    moved = Carried(InMemory(found.folded), plan.moving.tensors, maps)
    other = {
        key: value
        + noise * value.std(correction=0) * torch.randn(value.shape, generator=generator).double()
        for key, value in ((k, moved.load(k)) for k in moved.names())
    }
    return plan, (InMemory(found.folded), InMemory(other))


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_the_larger_excess_is_that_of_the_planted_class(kind, name, noise):
    plan, pair = planted(kind, name, noise)
    permuted = permutation_standing(pair, plan, Settings())
    found = match_maps(pair[0], pair[1], plan.moving, plan.classes)
    assert found.null is None
    found = with_null(found, pair, plan, seed=0)
    rotated = Standing(found.cosine.after, found.null or 0.0)
    assert 0 < rotated.null < 0.8
    assert rotated.cosine > permuted.cosine - 0.01  # more freedom, whatever is the truth
    if name == "permutation":
        assert permuted.excess > rotated.excess
    else:
        assert rotated.excess > permuted.excess


@pytest.mark.parametrize("kind", NETS)
def test_permutations_are_held_against_permuted_weights(kind, monkeypatch):
    searched = []

    def spy(reference, other, bound, **options):
        searched.append((other, bound))
        return match_weights(reference, other, bound, **options)

    monkeypatch.setattr(null_model, "match_weights", spy)
    plan, pair = planted(kind, "permutation", 0.3)
    permutation_standing(pair, plan, Settings())
    (found, bound), (null, _) = searched
    assert found is pair[1]
    for name in ("embed.weight", "0.out.weight"):
        values, moved = found.load(name), null.load(name)
        assert torch.equal(values.flatten().sort().values, moved.flatten().sort().values)
        assert not torch.equal(values, moved)
    fixed = {name for name, group in bound.groups.items() if group.fixed}
    assert fixed == {name for name in bound.groups if name.startswith(("rope", "sign"))}


def test_both_cosines_are_of_the_same_thing():
    plan, pair = planted("rotary", "permutation", 0.3)
    permuted = permutation_standing(pair, plan, Settings())
    rotated = match_maps(pair[0], pair[1], plan.moving, plan.classes)
    assert permuted.cosine == pytest.approx(rotated.cosine.after, abs=0.02)
    assert Standing(0.5, 0.25).excess == 0.25
