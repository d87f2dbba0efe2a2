"""Networks that were trained apart on real data: closer when aligned, and the same function."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.matching.problem.result import Status
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, infos
from tests.matching.problems import Problem, distance, same, still

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT.parent / "shared" / "checkpoints"
SPECS = {
    "mlp_512x3": ROOT / "specs" / "mlp.yaml",
    "vgg_bn": ROOT / "tests" / "benchmarks" / "specs" / "vgg_bn.yaml",
    "resnet20_bn_x1": ROOT / "specs" / "resnet20-cifar.yaml",
    "vit_small": ROOT / "specs" / "preln-vit.yaml",
    "char_gpt": ROOT / "specs" / "preln-gpt.yaml",
}
ARCHS = [
    pytest.param("mlp_512x3", marks=pytest.mark.slow),
    pytest.param("vgg_bn", marks=pytest.mark.slow),
    "resnet20_bn_x1",
    "vit_small",
    pytest.param("char_gpt", marks=pytest.mark.slow),
]
pytestmark = pytest.mark.skipif(
    not CHECKPOINTS.is_dir(), reason="the shared checkpoints are not here"
)


def load(arch, seed):
    return load_file(CHECKPOINTS / f"{arch}_s{seed}.safetensors")


def problem(arch):
    """Return seed 0 of a network with its spec."""
    state = load(arch, 0)
    spec = parse(SPECS[arch].read_text("utf-8"), source=SPECS[arch].name)
    sizes = {"heads": 4} if "heads" in spec.sizes else {}
    return Problem(bind(spec, infos(InMemory(state)), sizes=sizes), state)


@pytest.fixture
def evaluation(monkeypatch):
    """The functions that build and feed the networks."""
    monkeypatch.syspath_prepend(str(CHECKPOINTS))
    monkeypatch.delitem(sys.modules, "models", raising=False)
    yield runpy.run_path(str(CHECKPOINTS / "evaluate.py"))
    sys.modules.pop("models", None)


@torch.no_grad()
def outputs(evaluation, arch, state, count=100):
    """Return what a network makes of test data, in float64."""
    inputs = evaluation["test_set"](arch)[0][:count]
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return evaluation["load"](arch, state).double()(inputs)


@pytest.mark.parametrize("arch", ARCHS)
def test_aligning_trained_networks_brings_them_closer_and_keeps_the_function(arch, evaluation):
    pair, other = problem(arch), load(arch, 1)
    found = pair.match(other)
    aligned = pair.permuted(found.permutations, other)
    before = distance(pair, pair.state, other, {})
    after = distance(pair, pair.state, aligned, {})
    assert found.status is Status.MOVED
    assert after < 0.99 * before
    expected = outputs(evaluation, arch, other)
    change = (outputs(evaluation, arch, aligned) - expected).abs().max() / expected.abs().max()
    assert float(change) < 1e-9


@pytest.mark.parametrize("arch", ARCHS)
def test_a_planted_order_of_a_trained_network_is_recovered(arch):
    trained = problem(arch)
    other, answer = trained.planted(1)
    found = trained.match(other)
    assert found.status is Status.EXACT
    moved_back = trained.permuted(found.permutations, other)
    assert all(torch.equal(moved_back[name], trained.state[name]) for name in moved_back)
    assert same(found.permutations, answer)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_trained_network_that_was_aligned_stays(arch):
    pair, other = problem(arch), load(arch, 1)
    aligned = pair.permuted(pair.match(other).permutations, other)
    again = pair.match(aligned, starts=("identity",))
    assert again.status is Status.STAYED
    assert same(again.permutations, still(pair))
