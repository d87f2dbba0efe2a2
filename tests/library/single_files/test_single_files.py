"""Single files in the original layout against the converters of diffusers, and through the door."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec.library import load_spec
from rebasin_cli.spec_choice.choice import Choice, choose_spec
from tests.cli.build import same
from tests.cli.harness import rebasin
from tests.library.single_files.composed import composed, layout_of
from tests.library.single_files.converted import converted_back
from tests.library.single_files.file_models import FIRST, PUBLISHED, SMALL, SMALL_SIZES, UNET
from tests.library.single_files.run_and_moved import answers, largest_change, moved, randomised
from tests.library.test_diffusion import headers_only

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.filterwarnings("ignore")

State = dict[str, Tensor]
KINDS = [pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
EXACT = 1e-10  # float64
INPUT = f"{UNET}input_blocks.0.0.weight"


def sizes(kind: str) -> dict[str, int]:
    """Return the sizes that the spec of a kind of file has to be told for small models."""
    return {n: size for n, size in SMALL_SIZES.items() if n in load_spec(kind).sizes}


def built(kind: str) -> tuple[nn.Module, State]:
    """Return the small models of a kind of file, and the file."""
    model = randomised(composed(kind, SMALL[kind]).build())
    return model, layout_of(SMALL[kind]).stored(model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_file_is_the_same_function_to_the_library(kind: str) -> None:
    model, file = built(kind)
    before = answers(SMALL[kind], model)
    for name, state in converted_back(kind, file, model).items():
        own = getattr(model, name).state_dict()
        assert {*own} - {*state} <= {"text_projection.weight"}  # diffusers drops that of SD 2
        assert same({n: own[n] for n in state}, state)
    other = moved(kind, file, sizes(kind))
    changed = {n for n in file if not torch.equal(file[n], other[n])}
    assert len(changed) > 0.8 * len(file)
    for name, state in converted_back(kind, other, model).items():
        getattr(model, name).load_state_dict(state, strict=False)
    assert largest_change(before, answers(SMALL[kind], model)) < EXACT


# which spec


def chosen(path: Path, selection: Selection) -> Choice:
    with open_checkpoint(path) as opened:
        return choose_spec([opened], selection)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_file_of_the_published_size_gets_its_spec(kind: str, tmp_path: Path) -> None:

    with torch.device("meta"):
        model = composed(kind, PUBLISHED[kind]).build()
    stored = layout_of(PUBLISHED[kind]).stored(model.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    path = headers_only(tmp_path / "model.safetensors", shapes)
    choice = chosen(path, Selection())
    assert (choice.name, choice.automatic, choice.bound.untouched) == (kind, True, ())
    assert choice.whole
    for change in (
        {INPUT: (shapes[INPUT][0], 9, 3, 3)},  # inpainting
        {n: None for n in shapes if n.startswith(FIRST)},  # without the autoencoder
        {n: None for n in shapes if not n.startswith(UNET)},  # the U-Net alone
    ):
        new = {n: shape for n, shape in {**shapes, **change}.items() if shape is not None}
        choice = chosen(headers_only(path, new), Selection())
        assert (choice.name, choice.bound.untouched) == (kind, ())


# through the door


def averages(file: Mapping[str, Tensor]) -> State:
    """Return running averages of the U-Net, under the names that LitEma gives them."""
    inside = {n: n.removeprefix("model.").replace(".", "") for n in file if n.startswith(UNET)}
    return {f"model_ema.{short}": 0.9 * file[n] for n, short in inside.items()}


@pytest.mark.slow
def test_align_finds_what_was_planted_in_a_file_with_averages(tmp_path: Path) -> None:
    _, file = built("sd1")
    other = moved("sd1", file, sizes("sd1"))
    half = [{n: t.half() for n, t in {**f, **averages(f)}.items()} for f in (file, other)]
    save_file(half[0], tmp_path / "a.safetensors")
    torch.save({"state_dict": half[1], "global_step": 7}, tmp_path / "b.ckpt")
    argv = ("--spec", "sd1", *(f"--set={n}={size}" for n, size in sizes("sd1").items()))
    quick = ("--effort", "quick")
    done = rebasin("align", "a.safetensors", "b.ckpt", *argv, *quick, cwd=tmp_path, seconds=500)
    assert done.code == 0, done.err
    found = torch.load(tmp_path / "b.aligned.ckpt")
    assert found["global_step"] == 7
    assert same(found["state_dict"], half[0])
    # A file without autoencoder and averages, and an autoencoder that has to stay as it is.
    less = {n: t for n, t in half[1].items() if not n.startswith((FIRST, "model_ema."))}
    save_file(less, tmp_path / "c.safetensors")
    done = rebasin(
        "align", "a.safetensors", "c.safetensors", *argv, *quick, cwd=tmp_path, seconds=500
    )
    assert done.code == 0, done.err
    aligned = load_file(tmp_path / "c.aligned.safetensors")
    assert same(aligned, {n: half[0][n] for n in aligned})
    skip = ("--skip", f"{FIRST}*", "--force")
    done = rebasin(
        "align", "a.safetensors", "b.ckpt", *argv, *quick, *skip, cwd=tmp_path, seconds=500
    )
    assert done.code == 0, done.err
    found = torch.load(tmp_path / "b.aligned.ckpt")["state_dict"]
    kept = {n for n in found if n.startswith(FIRST)}
    assert same({n: found[n] for n in kept}, {n: half[1][n] for n in kept})
    assert same(
        {n: found[n] for n in found if n not in kept},
        {n: half[0][n] for n in found if n not in kept},
    )
