"""VGG and residual networks for CIFAR in all their forms: found, traced, aligned, calibrated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rebasin_cli.errors import SpecError
from rebasin_cli.models.user.given_inputs import examples_of_shape
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.spec.binding.bind import bind, uncovered_tensors
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.outline import Outlines, outlines, ruled_out
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.library import bundled_names, load_spec, spec_text
from rebasin_cli.tensors import InMemory, TensorInfo, infos
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.trace import trace
from tests.cli.harness import rebasin
from tests.models import EXAMPLES, randomise, without_biases
from tests.models.cifar import CifarResNet
from tests.models.resnet import BASIC, Names, ResNet
from tests.models.vgg import Vgg
from tests.proof import draw, permuted, stored

VGG = Path(__file__).parents[1] / "models" / "vgg.py"
NEAR = 0.1  # how far the second model is from the first, in standard deviations


def fitting(state: Mapping[str, Tensor]) -> set[str]:
    """Return the bundled specs that name every tensor of a model."""
    known = infos(InMemory(state))
    names = outlines(known, {})
    return {title for title in bundled_names() if _fits(title, known, names)}


def _fits(title: str, known: Mapping[str, TensorInfo], names: Outlines) -> bool:
    if ruled_out(spec_text(title), names):
        return False
    try:
        return not uncovered_tensors(bind(load_spec(title), known), known)
    except SpecError:
        return False


def vgg(form: str, depth: int, divisor: int) -> nn.Module:
    """Return a VGG for CIFAR: plain, without biases, or with norms."""
    model = Vgg(depth, norm=form if form in ("bn", "ln") else None, divisor=divisor, small=True)
    return without_biases(model) if form == "nobias" else model


@pytest.mark.parametrize("divisor", [16, 4])  # four times as wide
@pytest.mark.parametrize("depth", [11, 16, 19])
@pytest.mark.parametrize("form", ["plain", "nobias", "bn"])
def test_one_bundled_spec_fits_each_vgg(form: str, depth: int, divisor: int) -> None:
    with torch.device("meta"):
        state = vgg(form, depth, divisor).state_dict()
    assert fitting(state) == {f"vgg{depth}_bn" if form == "bn" else "vgg-cifar"}


@pytest.mark.parametrize(("depth", "width"), [(20, 64), (110, 16)])
@pytest.mark.parametrize(
    ("form", "spec"),
    [
        ("bn", "resnet20-cifar"),
        ("plain", "resnet20-plain"),
        ("nobias", "resnet20-plain"),
        ("ln", "resnet20-ln"),
        ("fixup", "resnet20-plain"),
        ("padded", "resnet20-fixup"),
    ],
)
def test_one_bundled_spec_fits_each_resnet(form: str, spec: str, depth: int, width: int) -> None:
    blocks = ((depth - 2) // 6,) * 3
    with torch.device("meta"):
        model = (
            ResNet(BASIC, blocks, stem=3, width=width, names=Names(shortcut="shortcut"))
            if form == "bn"
            else CifarResNet(form, blocks, width)
        )
    assert fitting(model.state_dict()) == {spec}


def test_layer_norms_of_a_vgg_may_be_group_norms_and_fit_nothing() -> None:
    assert fitting(vgg("ln", 11, 16).state_dict()) == set()


def traced(form: str) -> Trace:
    inputs = examples_of_shape((2, 3, 32, 32))
    return trace(subject_of(lambda: vgg(form, 11, 16), examples=inputs))


@pytest.mark.parametrize(
    ("form", "spec"), [("plain", "vgg-cifar"), ("nobias", "vgg-cifar"), ("bn", "vgg11_bn")]
)
def test_the_tracer_finds_what_the_bundled_spec_says(form: str, spec: str) -> None:
    found = traced(form)
    assert found.proof is not None and found.proof.holds
    assert same_symmetry(bind(load_spec(spec), found.infos), found.bound)


def test_the_tracer_finds_the_same_units_beside_layer_norms() -> None:
    found = traced("ln")
    assert found.proof is not None and found.proof.holds
    units = {group.size for group in found.bound.groups.values()}
    assert (len(found.bound.groups), units) == (8, {4, 8, 16, 32})


def pair(form: str, bound: BoundSpec, folder: Path) -> None:
    """Write a model, another one near it, and that one in an order of its own."""
    model = vgg(form, 11, 16).double().eval()
    one = {n: t.float() for n, t in stored(randomise(model, 1, gain=2.0)).items()}
    generator = torch.Generator().manual_seed(3)
    noise = {n: torch.randn(t.shape, generator=generator) for n, t in one.items()}
    near = {n: t if t.dim() == 0 else t + NEAR * t.std() * noise[n] for n, t in one.items()}
    moved = {**near, **permuted(near, bound.tensors, draw(bound, seed=2))}
    for name, state in {"a": one, "near": near, "b": moved}.items():
        save_file({n: t.contiguous() for n, t in state.items()}, folder / f"{name}.safetensors")


@pytest.mark.parametrize("form", ["plain", "nobias", "bn", "ln"])
def test_another_order_is_undone(form: str, tmp_path: Path) -> None:
    pair(form, traced(form).bound, tmp_path)
    arguments = json.dumps({"depth": 11, "norm": "ln", "small": True})
    how = ["--model", f"{VGG}:Vgg", "--model-args", arguments, "--input-shape", "2,3,32,32"]
    done = rebasin(
        "align", "a.safetensors", "b.safetensors", *(how if form == "ln" else []), cwd=tmp_path
    )
    assert done.code == 0, done.err
    near, aligned = (load_file(tmp_path / f"{n}.safetensors") for n in ("near", "b.aligned"))
    assert all(torch.equal(near[name], aligned[name]) for name in near)


def calibrate(folder: Path) -> tuple[int, str]:
    """Calibrate the mean of two models; return the exit code and what was said."""
    rebasin("merge", "a.safetensors", "near.safetensors", "-o", "m.safetensors", cwd=folder)
    done = rebasin(
        "renormalize", "m.safetensors", "--parents", "a.safetensors", "near.safetensors",
        "--method", "calibrate", "--decay", "depth", "-o", "c.safetensors", cwd=folder,
    )  # fmt: skip
    return done.code, done.err


def test_the_biases_of_a_vgg_are_calibrated_by_their_depth(tmp_path: Path) -> None:
    pair("plain", traced("plain").bound, tmp_path)
    code, said = calibrate(tmp_path)
    assert code == 0, said
    a, b, found = (load_file(tmp_path / f"{name}.safetensors") for name in ("a", "near", "c"))
    biases = [name for name in EXAMPLES["vgg11_small"].model().state_dict() if "bias" in name]
    assert len(biases) == 9
    for depth, name in enumerate(biases, 1):
        wanted = 0.5**depth * (a[name].double() + b[name].double())
        assert torch.allclose(found[name].double(), wanted, atol=1e-6), name


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("nobias", "calibrate finds no bias"),
        ("bn", "features.1.running_mean is a statistic of a norm"),
    ],
)
def test_a_vgg_that_cannot_be_calibrated_is_told_so(form: str, said: str, tmp_path: Path) -> None:
    pair(form, traced(form).bound, tmp_path)
    code, heard = calibrate(tmp_path)
    assert code == 2
    assert said in heard
