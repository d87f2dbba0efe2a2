"""Any free numbers stand for maps of the class, and zeros for those that they begin at."""

from __future__ import annotations

import pytest
import torch

from rebasin_cli.symmetry.map_parameters import MapParameters
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.symmetry.small import NETS, case, outputs


@pytest.mark.parametrize("kind", NETS)
def test_any_numbers_are_maps_that_keep_the_function(kind: str) -> None:
    found = case(kind)
    plan, state = found.plan, found.folded
    generator = torch.Generator().manual_seed(3)
    start = draw_maps(plan.moving.groups.values(), plan.classes, generator)
    parameters = MapParameters.at(start, plan.classes)
    still = parameters.maps()
    assert all(torch.allclose(still.linear[n].matrix, m.matrix) for n, m in start.linear.items())
    with torch.no_grad():
        for values in parameters.free.values():
            values.copy_(torch.randn(values.shape, generator=generator, dtype=values.dtype))
        maps = parameters.maps()
    source = Carried(InMemory(state), plan.moving.tensors, maps)
    moved = {name: source.load(name) for name in source.names()}
    before, after = outputs(found.net, state), outputs(found.net, moved)
    assert torch.allclose(before, after, rtol=0, atol=1e-10)
    stream = maps.linear["stream"].matrix
    assert not torch.allclose(stream, start.linear["stream"].matrix, atol=0.1)


@pytest.mark.parametrize("kind", NETS)
def test_gradients_reach_every_group_that_turns(kind: str) -> None:
    found = case(kind)
    plan = found.plan
    start = draw_maps(plan.moving.groups.values(), plan.classes, torch.Generator().manual_seed(3))
    parameters = MapParameters.at(start, plan.classes)
    source = Carried(InMemory(found.folded), plan.moving.tensors, parameters.maps())
    weight = torch.Generator().manual_seed(4)
    loss = sum(
        (source.load(n) * torch.randn(v.shape, generator=weight, dtype=v.dtype)).sum()
        for n, v in found.folded.items()
    )
    torch.autograd.backward([torch.as_tensor(loss)])
    turning = {n: g for n, g in plan.moving.groups.items() if n in parameters.free and g.size > 1}
    assert turning.keys() >= {"stream", "vo.0"}
    for name in turning:
        grad = parameters.free[name].grad
        assert grad is not None and float(grad.abs().max()) > 1e-3
