"""The search for maps stays on the device that it is given, and finds what it finds elsewhere.

Fake tensors have a device and no values: what would mix two devices raises, GPU or not.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.symmetry import class_solvers, family_solution
from rebasin_cli.symmetry.class_solvers import SOLVERS, newton_schulz, polar
from rebasin_cli.symmetry.family_solution import FamilySolver, LinearTerm
from rebasin_cli.symmetry.map_parameters import PROJECTIONS
from rebasin_cli.symmetry.map_search import MapSettings, match_maps
from rebasin_cli.tensors import InMemory
from tests.symmetry.small import NETS, case


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 96, 96), (3, 70, 70), (1, 5, 5)])
def test_products_alone_find_the_polar_factor(shape):
    similarities = noise(*shape) + 2 * torch.eye(shape[-1], dtype=torch.float64)
    apart = (newton_schulz(similarities) - polar(similarities)).abs().max()
    assert apart < 1e-10


def test_values_of_very_different_size_only_take_more_products():
    u, v = polar(noise(1, 64, 64)), polar(noise(1, 64, 64, seed=1))
    values = torch.logspace(0, -7, 64, dtype=torch.float64)
    found = newton_schulz(u * values @ v)
    assert (found - u @ v).abs().max() < 1e-8  # rounding over the smallest value


def test_a_singular_matrix_is_seen_to_have_no_such_factor():
    singular = noise(1, 64, 8) @ noise(1, 8, 64, seed=1)
    found = newton_schulz(singular)
    assert not bool(class_solvers._departure(found) < class_solvers.ORTHOGONAL_TO)


def fake_orders(similarities: Tensor, _: object = None) -> Tensor:
    *batch, size, _ = similarities.shape
    return torch.arange(size).expand(*batch, size).contiguous()  # on the CPU, as they come


@pytest.mark.parametrize("keys", [2, 5])
def test_everything_in_a_family_is_solved_where_its_tensors_are(keys, monkeypatch):
    """Heads, with orders and maps side by side and inside: 2 orders are tried, 5 improved."""
    monkeypatch.setattr(family_solution, "assign", fake_orders)
    monkeypatch.setattr(class_solvers, "assign_all", fake_orders)
    monkeypatch.setattr(torch, "equal", lambda a, b: a.device == b.device)
    svd = {"orthogonal": lambda n: torch.linalg.svd(n)[0]}
    monkeypatch.setattr(family_solution, "SOLVERS", {**SOLVERS, **svd})
    groups = {
        "kv": BoundGroup("kv", (3,)),
        "q": BoundGroup("q", (3, keys), ("kv",)),
        "rope": BoundGroup("rope", (3, 4), ("kv",), maps="rotary"),
        "vo": BoundGroup("vo", (3, 4), ("kv",), maps="orthogonal"),
    }
    classes = {"kv": "permutation", "q": "permutation", "rope": "rotary", "vo": "orthogonal"}
    with FakeTensorMode():
        terms = [
            LinearTerm(("kv", "q", "rope"), _fake(3, keys, 4, 6), _fake(3, keys, 4, 6)),
            LinearTerm(("kv", "rope"), _fake(3, 4, 6), _fake(3, 4, 6)),
            LinearTerm(("kv", "vo"), _fake(3, 4, 6), _fake(3, 4, 6)),
        ]
        found = FamilySolver(groups, classes).solve("kv", terms)
    tensors = [m.matrix for m in found.linear.values()]
    tensors += [order.index for order in found.permutations.values()]
    assert len(tensors) == 4
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


def _fake(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device="cuda")


@pytest.mark.parametrize("name", PROJECTIONS)
def test_every_class_is_learned_where_its_tensors_are(name):
    with FakeTensorMode():
        assert PROJECTIONS[name](_fake(2, 4, 4)).device.type == "cuda"


@pytest.mark.parametrize("name", ["rotary", "rotary-interleaved"])
def test_pairs_are_turned_where_they_are(name):
    with FakeTensorMode():
        assert SOLVERS[name](_fake(2, 4, 4)).device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", NETS)
def test_a_gpu_finds_the_maps_of_the_cpu_to_rounding(kind):
    plan = case(kind).plan
    a, b = (InMemory(case(kind, seed).folded) for seed in (0, 1))
    cpu, gpu = (
        match_maps(a, b, plan.moving, plan.classes, settings=MapSettings(device=device))
        for device in ("cpu", "cuda")
    )
    assert gpu.cosine.after == pytest.approx(cpu.cosine.after, rel=1e-6)
    for name, found in cpu.maps.linear.items():
        assert gpu.maps.linear[name].matrix.device.type == "cpu"
        torch.testing.assert_close(gpu.maps.linear[name].matrix, found.matrix, rtol=0, atol=1e-6)
