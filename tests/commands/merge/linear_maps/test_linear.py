"""A linear network whose units were mixed by invertible maps is brought back by CCA."""

import pytest
import torch

from rebasin_cli.commands.merge.linear_maps.linear_map import Mapped, identity_map
from rebasin_cli.commands.merge.linear_maps.linear_methods import LINEAR, cca_maps
from rebasin_cli.merging.sources import Mean
from rebasin_cli.spec.binding.axis_sides import READ, WRITE
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, infos

SPEC = "rebasin: 1\ntensors: {a: [h], x: [h], b: [g, h], y: [g], c: [~, g]}"
SIDES = {"a": (WRITE, READ), "b": (WRITE, READ), "c": (WRITE, READ), "x": (WRITE,), "y": (WRITE,)}


def randn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network():
    shapes = {"a": (6, 8), "x": (6,), "b": (5, 6), "y": (5,), "c": (3, 5)}
    return {name: randn(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}


def mixed(model):
    h = torch.eye(6) + 0.3 * randn(6, 6, seed=8)
    g = torch.eye(5) + 0.3 * randn(5, 5, seed=9)
    back_h, back_g = torch.linalg.inv(h), torch.linalg.inv(g)
    return {
        "a": h @ model["a"],
        "x": h @ model["x"],
        "b": g @ model["b"] @ back_h,
        "y": g @ model["y"],
        "c": model["c"] @ back_g,
    }


def run(model, inputs):
    """Return the units of h, those of g, and the outputs."""
    h = inputs @ model["a"].T + model["x"]
    g = h @ model["b"].T + model["y"]
    return h, g, g @ model["c"].T


def test_canonical_correlation_gives_a_mixed_linear_network_its_function_back():
    a, inputs = network(), randn(500, 8, seed=10)
    b = mixed(a)
    pairs = zip(run(a, inputs), run(b, inputs), strict=True)
    first, second, _ = (torch.cov(torch.cat(pair, 1).T, correction=0) for pair in pairs)
    maps = {"h": cca_maps(first, gamma=1e-9)[1], "g": cca_maps(second, gamma=1e-9)[1]}
    bound = bind(parse(SPEC), infos(InMemory(a)))
    moved = Mapped(InMemory(b), bound.tensors, maps, SIDES)
    mean = Mean([InMemory(a), moved], (0.5, 0.5), 0, lambda name: True)
    found = {name: mean.load(name) for name in a}
    plain = {name: (a[name] + b[name]) / 2 for name in a}
    assert torch.allclose(run(found, inputs)[2], run(a, inputs)[2], atol=1e-4)
    assert not torch.allclose(run(plain, inputs)[2], run(a, inputs)[2], atol=1)


@pytest.mark.parametrize("method", LINEAR)
def test_a_model_with_itself_stays(method):
    units = randn(90, 4, seed=1)
    covariance = torch.cov(torch.cat([units, units], 1).T, correction=0)
    for found in LINEAR[method](covariance, 2):
        assert torch.allclose(found.write, identity_map(4).write, atol=1e-4)
        assert torch.allclose(found.read, identity_map(4).read, atol=1e-4)


def test_canonical_correlation_is_of_two():
    with pytest.raises(ValueError, match="of two models, not of 3"):
        LINEAR["cca"](torch.eye(6).double(), 3)
