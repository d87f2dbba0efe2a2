"""Networks for CIFAR that have no batch norm: found, aligned, calibrated without being named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.models.user.given_inputs import examples_of_shape
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.renormalization.bias_calibration import paths_in_spec
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from rebasin_cli.tracer.trace import trace
from tests.cli.harness import rebasin
from tests.models import EXAMPLES
from tests.models.cifar import CifarResNet
from tests.proof import draw, permuted, stored

SPECS = {
    "plain": "resnet20-plain",
    "nobias": "resnet20-plain",
    "ln": "resnet20-ln",
    "fixup": "resnet20-plain",
    "padded": "resnet20-fixup",
}
DEPTHS = {  # of the layers of one block, then two, then two; a shortcut has one
    "conv1": 1,
    "segments.0.0.conv1": 2,
    "segments.0.0.conv2": 3,
    "segments.1.0.conv1": 2,
    "segments.1.0.conv2": 3,
    "segments.1.1.conv1": 3,
    "segments.1.1.conv2": 4,
    "segments.2.0.conv1": 3,
    "segments.2.0.conv2": 4,
    "segments.2.1.conv1": 4,
    "segments.2.1.conv2": 5,
    "fc": 4,
}


def pair(form: str, folder: Path) -> None:
    """Write a model, another one near it, and that one in an order of its own."""
    example = EXAMPLES[f"cifar_{form}"]
    one = stored(example.model(seed=1).float())
    other = {n: t + 0.1 * u for (n, t), u in zip(one.items(), _noise(one), strict=True)}
    bound = bind(load_spec(SPECS[form]), infos(InMemory(one)))
    moved = {**other, **permuted(other, bound.tensors, draw(bound, seed=2))}
    for name, state in {"a": one, "near": other, "b": moved}.items():
        save_file({n: t.contiguous() for n, t in state.items()}, folder / f"{name}.safetensors")


def _noise(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [t.std(correction=0) * torch.randn(t.shape, generator=generator) for t in state.values()]


@pytest.mark.parametrize("form", SPECS)
@pytest.mark.parametrize(("depth", "width"), [(3, 16), (18, 64)])
def test_resnet20_to_resnet110_fit_at_any_width(form: str, depth: int, width: int) -> None:
    with torch.device("meta"):
        state = CifarResNet(form, (depth,) * 3, width).state_dict()
    bound = bind(load_spec(SPECS[form]), infos(InMemory(state)))
    assert len(bound.groups) == 3 + 3 * depth
    assert bound.untouched == ()


def test_a_norm_that_may_be_of_groups_fits_nothing(tmp_path: Path) -> None:
    state = stored(EXAMPLES["resnet20_stages"].model())
    kept = {n: t for n, t in state.items() if not n.endswith(("_mean", "_var", "_tracked"))}
    save_file(kept, tmp_path / "a.safetensors")
    done = rebasin("align", "a.safetensors", "a.safetensors", cwd=tmp_path)
    assert done.code == 2
    assert "no bundled spec fits" in done.err


@pytest.mark.parametrize("form", [form for form in SPECS if form != "padded"])
def test_the_tracer_finds_the_same(form: str) -> None:
    inputs = examples_of_shape((2, 3, 16, 16))
    found = trace(subject_of(CifarResNet, model_args={"form": form}, examples=inputs))
    assert found.proof is not None and found.proof.holds
    assert same_symmetry(bind(load_spec(SPECS[form]), found.infos), found.bound)


@pytest.mark.parametrize("form", SPECS)
def test_another_order_is_undone_without_a_spec_being_named(form: str, tmp_path: Path) -> None:
    pair(form, tmp_path)
    done = rebasin("align", "a.safetensors", "b.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert f"spec {SPECS[form]}" in done.err
    near, aligned = (load_file(tmp_path / f"{n}.safetensors") for n in ("near", "b.aligned"))
    assert all(torch.equal(near[name], aligned[name]) for name in near)


def test_the_biases_of_a_plain_one_are_calibrated_by_their_depth(tmp_path: Path) -> None:
    pair("plain", tmp_path)
    rebasin("merge", "a.safetensors", "near.safetensors", "-o", "m.safetensors", cwd=tmp_path)
    done = rebasin(
        "renormalize", "m.safetensors", "--parents", "a.safetensors", "near.safetensors",
        "--method", "calibrate", "--decay", "depth", "-o", "c.safetensors", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    a, b, found = (load_file(tmp_path / f"{name}.safetensors") for name in ("a", "near", "c"))
    assert {f"{layer}.bias" for layer in DEPTHS} == {name for name in a if name.endswith("bias")}
    for layer, depth in DEPTHS.items():
        name = f"{layer}.bias"
        wanted = 0.5**depth * (a[name].double() + b[name].double())
        assert torch.allclose(found[name].double(), wanted, atol=1e-6), layer


def test_the_biases_of_a_vgg_lie_one_layer_deeper_each() -> None:
    state = stored(EXAMPLES["vgg11_small"].model())
    paths = paths_in_spec(bind(load_spec("vgg-cifar"), infos(InMemory(state))))
    assert [len(path) for path in paths.values()] == list(range(1, 10))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("nobias", "calibrate finds no bias"),
        ("ln", "norm1.weight is not the bias of a layer"),
        ("fixup", "bias1 is not the bias of a layer"),
    ],
)
def test_what_cannot_be_calibrated_is_said(form: str, said: str, tmp_path: Path) -> None:
    pair(form, tmp_path)
    done = rebasin(
        "renormalize", "a.safetensors", "--parents", "a.safetensors", "near.safetensors",
        "--method", "calibrate", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 2
    assert said in done.err
