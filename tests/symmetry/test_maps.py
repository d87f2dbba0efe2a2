"""Maps keep the function of folded models, and compose and invert as such."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rebasin_cli.symmetry import maps as maps_module
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.symmetry.small import NETS, TEXTS, Case, case, outputs


def drawn(found: Case, seed: int) -> GroupMaps:
    groups = found.plan.moving.groups.values()
    return draw_maps(groups, found.plan.classes, torch.Generator().manual_seed(seed))


def carried(found: Case, state: dict[str, Tensor], maps: GroupMaps) -> dict[str, Tensor]:
    source = Carried(InMemory(state), found.plan.moving.tensors, maps)
    return {name: source.load(name) for name in source.names()}


@pytest.mark.parametrize("kind", TEXTS)
def test_random_maps_of_all_groups_at_once_keep_the_function(kind: str) -> None:
    found = case(kind)
    state = found.folded
    moved = carried(found, state, drawn(found, 1))
    before, after = outputs(found.net, state), outputs(found.net, moved)
    assert torch.allclose(before, after, rtol=0, atol=1e-11)
    assert all(not torch.equal(state[n], moved[n]) for n in state if n.endswith("out.weight"))


@pytest.mark.parametrize("kind", NETS)
def test_what_is_mapped_in_pieces_is_what_is_mapped_at_once(kind: str, monkeypatch) -> None:
    found = case(kind)
    whole = carried(found, found.folded, drawn(found, 1))
    monkeypatch.setattr(maps_module, "PIECE", 30)  # two rows of an embedding
    pieces = carried(found, found.folded, drawn(found, 1))
    assert all(torch.allclose(pieces[n], t, rtol=0, atol=1e-14) for n, t in whole.items())


@pytest.mark.parametrize("kind", NETS)
def test_a_larger_class_than_a_norm_allows_breaks_the_function(kind: str) -> None:
    found = case(kind)
    wider = {**found.plan.classes, "hidden.0": "orthogonal"}
    groups = [g for n, g in found.plan.moving.groups.items() if n in ("hidden.0", "stream")]
    maps = draw_maps(groups, wider, torch.Generator().manual_seed(1))
    moved = carried(found, found.folded, maps)
    assert not torch.allclose(
        outputs(found.net, found.folded), outputs(found.net, moved), atol=1e-3
    )


@pytest.mark.parametrize("kind", NETS)
def test_maps_compose_as_they_act(kind: str) -> None:
    found = case(kind)
    first, second = drawn(found, 1), drawn(found, 2)
    one_by_one = carried(found, carried(found, found.folded, first), second)
    at_once = carried(found, found.folded, first.then(second))
    assert all(torch.allclose(one_by_one[n], at_once[n], rtol=0, atol=1e-12) for n in at_once)


@pytest.mark.parametrize("kind", NETS)
def test_the_inverse_undoes(kind: str) -> None:
    found = case(kind)
    maps = drawn(found, 1)
    back = carried(found, carried(found, found.folded, maps), maps.inverse())
    assert all(torch.allclose(back[n], found.folded[n], rtol=0, atol=1e-12) for n in back)
