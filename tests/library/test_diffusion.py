"""The bundled specs of diffusers: published sizes, latents, folders, and targets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.models.subject import without_memory
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec.library import load_spec
from rebasin_cli.spec_choice.choice import Choice, choose_spec
from rebasin_cli.tensors import InMemory, infos
from rebasin_cli.tracer.trace import trace
from tests.cli.build import same
from tests.cli.harness import rebasin
from tests.library.diffusion import (
    ENTRIES,
    PIECES,
    SD1,
    SD2,
    SDXL,
    SMALL_SD1,
    SMALL_VAE,
    VAE,
    small,
)
from tests.library.entry import Fields

diffusers = pytest.importorskip("diffusers")
os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.filterwarnings("ignore")

PUBLISHED: Mapping[str, Fields] = {
    "unet_sd1": SD1,
    "unet_sd2": SD2,
    "unet_sdxl": SDXL,
    "autoencoder_kl": VAE,
}
FILE = "diffusion_pytorch_model.safetensors"
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
# Three blocks of other widths than any published model has: only its configuration describes it.
OTHER: Fields = {
    **SMALL_SD1,
    "block_out_channels": [16, 32, 48],
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2,
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def shapes(fields: Fields) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a model of the published size, which takes no memory."""
    model = without_memory(small(fields).subject())
    assert model is not None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def headers_only(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> Path:
    """Write a safetensors file of half-precision tensors whose bytes are a hole on disk."""
    table, end = {}, 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        table[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def chosen(path: Path, selection: Selection = Selection()) -> Choice:
    with open_checkpoint(path) as opened:
        return choose_spec([opened], selection)


def test_every_entry_has_its_published_size() -> None:
    assert set(PUBLISHED) == {entry.name for entry in ENTRIES}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_of_the_published_size_gets_its_spec(name: str, tmp_path: Path) -> None:
    choice = chosen(headers_only(tmp_path / FILE, shapes(PUBLISHED[name])))
    assert (choice.name, choice.alike, choice.automatic) == (name, (), True)
    assert choice.bound.untouched == ()
    free = {name: group.shape for name, group in choice.bound.groups.items() if not group.fixed}
    counts = {"unet_sd1": 213, "unet_sd2": 213, "unet_sdxl": 565, "autoencoder_kl": 78}
    assert len(free) == counts[name]
    if name != "autoencoder_kl":
        # The widths 320, 640 and 1280 in pieces that no border of a norm's groups cuts.
        assert free["unit.down.0"] == (16, 2, 10)
        assert free["unit.down.1"] == (16, 2, 20)
        assert free["unit.high.1" if name != "unet_sdxl" else "unit.high.0"] == (64, 20)


def test_a_checkpoint_with_the_old_names_of_attention_gets_the_same_spec(tmp_path: Path) -> None:
    old = shapes(VAE)
    for new, name in OLD.items():
        old = {
            key.replace(f".attentions.0.{new}.", f".attentions.0.{name}."): shape
            for key, shape in old.items()
        }
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in old
    choice = chosen(headers_only(tmp_path / FILE, old))
    assert (choice.name, choice.bound.untouched) == ("autoencoder_kl", ())


@pytest.mark.slow
def test_other_ratios_of_widths_are_refused(tmp_path: Path) -> None:
    other = small({**SD1, "block_out_channels": [320, 640, 960, 1280]})
    path = headers_only(tmp_path / FILE, shapes(other.config()))
    with pytest.raises(Exception, match="no bundled spec fits"):
        chosen(path)


@pytest.mark.slow
def test_a_permuted_autoencoder_has_the_same_latents() -> None:
    torch.manual_seed(0)
    model: Any = diffusers.AutoencoderKL.from_config(dict(SMALL_VAE)).double().eval()
    picture, latents = torch.rand(1, 3, 32, 32).double(), torch.randn(1, 4, 4, 4).double()

    def ends() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            encoded = model.encode(picture).latent_dist.parameters
            return encoded, model.decode(latents).sample

    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    before = ends()
    source = InMemory({n: t.clone() for n, t in model.state_dict().items()})
    bound = bind(load_spec("autoencoder_kl"), infos(source))
    orders = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(1))
    moved = Permuted(source, bound.tensors, orders)
    model.load_state_dict({name: moved.load(name) for name in source.names()})
    changed = sum(not torch.equal(moved.load(n), source.load(n)) for n in source.names())
    assert changed >= 240
    for one, two in zip(before, ends(), strict=True):
        assert (one - two).abs().max() < 1e-10 * one.abs().max()


def test_an_autoencoder_that_is_a_target_keeps_its_latents(tmp_path: Path) -> None:
    fields = {**SMALL_VAE, "block_out_channels": [16, 32], "norm_num_groups": 8}
    fields |= {"down_block_types": ["DownEncoderBlock2D"] * 2}
    fields |= {"up_block_types": ["UpDecoderBlock2D"] * 2, "layers_per_block": 1}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = trace(subject_of_target(f"diffusers:{tmp_path}"))
    assert found.proof is not None and found.proof.holds
    assert found.outputs == ("latents.0", "decoded.sample")
    moved = {t.members[0]: [b.groups for b in t.blocks] for t in found.bound.tensors}
    assert moved["quant_conv.weight"] == [(None, "encoder.conv_out")]
    assert not any(map(any, moved.get("quant_conv.bias", [])))
    assert moved["post_quant_conv.weight"] == [("post_quant_conv", None)]


# folders


def saved(fields: Fields, folder: Path) -> None:
    """Write a small random model as diffusers does."""
    torch.manual_seed(0)
    model: Any = getattr(diffusers, fields["_class_name"]).from_config(dict(fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)


def planted(folder: Path, selection: Selection, tracing: Tracing) -> None:
    """Write a copy beside a folder with every group of its spec in another order."""
    checkpoint = open_checkpoint(folder)
    bound = choose_spec([checkpoint], selection, tracing=tracing).bound
    orders = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(3))
    moved = Permuted(checkpoint, bound.tensors, orders)
    shutil.copytree(folder, folder.parent / "b")
    tensors = {name: moved.load(name).contiguous() for name in checkpoint.names()}
    assert not same(tensors, load_file(folder / FILE))
    save_file(tensors, folder.parent / "b" / FILE, metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "selection", "argv", "spec"),
    [
        (SMALL_VAE, Selection(), (), "autoencoder_kl"),
        (
            SMALL_SD1,
            Selection(spec="unet_sd1", sizes=PIECES),
            ("--spec", "unet_sd1", *(f"--set={name}={size}" for name, size in PIECES.items())),
            "unet_sd1",
        ),
        (OTHER, Selection(), ("--model", "diffusers:a"), "traced from diffusers:a"),
        (OTHER, Selection(), (), "traced from config.json: UNet2DConditionModel"),
    ],
    ids=["autoencoder", "unet", "target", "configuration"],
)
def test_align_finds_what_was_planted_in_a_folder(
    fields: Fields, selection: Selection, argv: tuple[str, ...], spec: str, tmp_path: Path
) -> None:
    saved(fields, tmp_path / "a")
    target = f"diffusers:{tmp_path / 'a'}" if argv[:1] == ("--model",) else None
    planted(tmp_path / "a", selection, Tracing(target=target))
    quick = ("--effort", "quick")
    done = rebasin("align", "a", "b", "-o", "c", *quick, *argv, cwd=tmp_path, seconds=500)
    assert done.code == 0
    assert spec in done.err
    assert (tmp_path / "c" / "config.json").is_file()
    assert same(load_file(tmp_path / "a" / FILE), load_file(tmp_path / "c" / FILE))
