"""Traced specs of trained networks say what the ones written by hand say, and align as well."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import infos
from rebasin_cli.tracer.trace import trace
from tests.cli.harness import rebasin

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
OWN = Path(__file__).parents[1] / "benchmarks" / "specs"
HEADS = {"heads": 4}
NETWORKS = {  # name: class, its arguments, the spec written by hand, its sizes
    "mlp_512x3": ("MLP", {}, "mlp", {}),
    "vgg_bn": ("VGG", {}, str(OWN / "vgg_bn.yaml"), {}),
    "resnet20_bn_x1": ("ResNet20", {}, "resnet20-cifar", {}),
    "vit_small": ("ViT", {}, "preln-vit", HEADS),
    "char_gpt": ("CharGPT", {"vocab": 64}, "preln-gpt", HEADS),
}
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")


@pytest.fixture(scope="module")
def models() -> ModuleType:
    source = importlib.util.spec_from_file_location("shared_models", SHARED / "models.py")
    assert source is not None and source.loader is not None
    module = importlib.util.module_from_spec(source)
    sys.modules["shared_models"] = module
    source.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NETWORKS)
def test_the_traced_spec_is_the_one_written_by_hand(name: str, models: ModuleType) -> None:
    architecture, arguments, spec, sizes = NETWORKS[name]
    traced = trace(subject_of(lambda: getattr(models, architecture)(**arguments)))
    stored = infos(open_checkpoint(SHARED / f"{name}_s0.safetensors"))
    by_hand = bind(load_spec(spec), stored, sizes=sizes)
    assert traced.proof is not None and traced.proof.difference < 1e-9
    assert traced.proof.refuted == {}
    assert same_symmetry(bind(traced.spec, stored), by_hand)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_alignment_by_model_reaches_what_alignment_by_spec_does(name: str, tmp_path: Path) -> None:
    architecture, arguments, spec, sizes = NETWORKS[name]
    pair = [str(SHARED / f"{name}_s{seed}.safetensors") for seed in (0, 1)]
    model = ["--model", f"{SHARED / 'models.py'}:{architecture}", "--no-cache"]
    chosen = [f"--set={key}={value}" for key, value in sizes.items()]
    objectives = []
    for k, how in enumerate(
        (["--spec", spec, *chosen], [*model, "--model-args", json.dumps(arguments)])
    ):
        done = rebasin("align", *pair, "-o", f"{k}.safetensors", "--json", *how, cwd=tmp_path)
        assert done.code == 0, done.err
        objectives += [e["objective"]["after"] for e in done.events if "objective" in e]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-6)
