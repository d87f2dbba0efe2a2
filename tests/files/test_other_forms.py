"""Models stored in another form than those they are compared with: the refusal says which."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rebasin_cli.files.other_forms import form_hint
from tests.cli.build import mlp, save
from tests.cli.harness import rebasin

UTILS = nn.utils
IN_PARTS: dict[str, Any] = {
    "remove_weight_norm(": UTILS.weight_norm,
    "remove_spectral_norm(": UTILS.spectral_norm,
    "prune.remove(": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "remove_parametrizations(": UTILS.parametrizations.weight_norm,
    "remove_parametrizations(module, 'weight')": UTILS.parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("undo", IN_PARTS)
def test_a_weight_in_parts_is_named_with_what_puts_it_together(undo):
    plain, other = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 4))
    IN_PARTS[undo](other[0])
    whole, parts = plain.state_dict().keys(), other.state_dict().keys()
    assert undo in form_hint(whole - parts, parts - whole)
    assert undo in form_hint(parts - whole, whole - parts)
    assert form_hint({"a.weight"}, {"b.weight", "a.bias"}) == ""


@pytest.mark.parametrize(
    "names",
    [
        ("x.lora_A.weight", "x.lora_B.weight"),
        ("lora_unet_x.lora_up.weight",),
        ("x.lora.up.weight",),
    ],
)
def test_a_file_of_an_adapter_is_called_one(tmp_path, names):
    save(tmp_path / "a.safetensors", mlp(0))
    save(tmp_path / "lora.safetensors", {name: torch.zeros(2, 2) for name in names})
    done = rebasin("merge", "a.safetensors", "lora.safetensors", cwd=tmp_path)
    assert done.code == 3
    assert "rebasin apply PERM FILE" in done.err


@pytest.mark.parametrize(
    "files", [("a.safetensors", "codes.safetensors"), ("codes.safetensors", "a.safetensors")]
)
def test_codes_beside_weights_are_offered_to_be_read_as_weights(tmp_path, files):
    state = mlp(0)
    save(tmp_path / "a.safetensors", state)
    scales = {f"{name}_scale": torch.ones(len(t), 1) for name, t in state.items() if t.ndim > 1}
    codes = {n: t.to(torch.int8) if t.ndim > 1 else t for n, t in state.items()}
    save(tmp_path / "codes.safetensors", codes | scales)
    done = rebasin("merge", *files, cwd=tmp_path)
    assert done.code == 3
    assert "hint: --dequantize reads them" in done.err
    assert "--skip" not in done.err


def test_a_renaming_of_what_stands_before_numbers_is_found(tmp_path):
    state = mlp(0)
    save(tmp_path / "a.safetensors", {f"layers.{name}": t for name, t in state.items()})
    save(tmp_path / "b.safetensors", {f"net.fc{name}": t for name, t in state.items()})
    command = "verify", "a.safetensors", "b.safetensors"
    option = rebasin(*command, cwd=tmp_path).err.partition("--rename '")[2].partition("'")[0]
    assert rebasin(*command, "--rename", option, cwd=tmp_path).code == 0
