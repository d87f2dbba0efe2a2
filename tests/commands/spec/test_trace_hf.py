"""Folders of transformers: traced from their config.json, in the names that files have."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.models.transformers.shrink import shrink_subject
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec_choice.choice import choose_spec
from tests.cli.build import same
from tests.cli.harness import ROOT, Done, fresh, rebasin

transformers = pytest.importorskip("transformers")

CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertForMaskedLM",
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "t5": "T5ForConditionalGeneration",
    "whisper": "WhisperForConditionalGeneration",
    "clip": "CLIPModel",
}


def saved(folder, kind, title=None):
    """Write a small random model of transformers the way that transformers writes it."""
    config = shrink_subject(transformers.CONFIG_MAPPING[kind]())
    torch.manual_seed(0)
    model = getattr(transformers, title or CLASSES[kind])(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def planted(folder, bound, name="b"):
    """Write a copy of a folder with every group of a spec in another order."""
    checkpoint = open_checkpoint(folder)
    permutations = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(3))
    moved = Permuted(checkpoint, bound.tensors, permutations)
    other = folder.parent / name
    shutil.copytree(folder, other)
    tensors = {n: moved.load(n).contiguous() for n in checkpoint.names()}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    return other


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(folder, *argv) -> Done:
    return rebasin(*argv, cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_a_plant_is_found_with_neither_spec_nor_model(tmp_path, kind):
    saved(tmp_path / "a", kind)
    choice = choose_spec([open_checkpoint(tmp_path / "a")])
    planted(tmp_path / "a", choice.bound)
    done = run(tmp_path, "align", "a", "b", "-o", "c")
    assert done.code == 0
    if choice.automatic and "config.json" in choice.name:
        assert f"traced from config.json: {CLASSES[kind]}" in done.err
    files = (load_file(tmp_path / name / "model.safetensors") for name in "ac")
    assert same(*files)


@pytest.mark.slow
def test_experts_in_files_are_an_axis_of_names(tmp_path):
    saved(tmp_path / "a", "mixtral")
    done = run(tmp_path, "spec", "trace", "hf:a", "-o", "mixtral.yaml")
    assert done.code == 0
    text = (tmp_path / "mixtral.yaml").read_text()
    for factor in ("w1", "w2", "w3"):  # on two of them is the sign of the hidden units
        assert f"model.layers.{{i}}.block_sparse_moe.experts.[e].{factor}.weight" in text
    assert "Tensors are called as in files that its library writes" in text
    checked = run(tmp_path, "spec", "check", "mixtral.yaml", "a")
    assert checked.code == 0
    assert "not mentioned" not in checked.err


@pytest.mark.slow
def test_verify_puts_experts_back_together(tmp_path):
    saved(tmp_path / "a", "mixtral")
    tracing = Tracing(target=f"hf:{tmp_path / 'a'}")
    planted(tmp_path / "a", choose_spec([open_checkpoint(tmp_path / "a")], tracing=tracing).bound)
    done = run(tmp_path, "verify", "a", "b", "--model", "hf:a", "--json")
    assert done.code == 0
    (event, _) = done.events
    assert (event["permutation"], event["same_function"]) == (True, True)
    changed = load_file(tmp_path / "b" / "model.safetensors")
    name = next(name for name in changed if name.endswith("experts.1.w2.weight"))
    changed[name] *= 2
    save_file(changed, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    done = run(tmp_path, "verify", "a", "b", "--model", "hf:a", "--json")
    assert done.code == 1
    assert done.events[0]["output_difference"] > 1e-3


@pytest.mark.slow
def test_stacked_experts_are_taken_as_they_are(tmp_path):
    model = saved(tmp_path / "a", "mixtral")
    tensors = {n: t.clone() for n, t in model.state_dict().items()}
    save_file(tensors, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    done = run(tmp_path, "align", "a", "a", "--model", "hf:a", "-o", "c", "--dry-run")
    assert done.code == 0


@pytest.mark.slow
def test_a_backbone_alone_fits_a_model_with_a_head(tmp_path):
    saved(tmp_path / "a", "bert", "BertModel")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "headed.json").write_text(
        json.dumps({**config, "architectures": ["BertForMaskedLM"]})
    )
    tracing = Tracing(target=f"hf:{tmp_path / 'headed.json'}")
    choice = choose_spec([open_checkpoint(tmp_path / "a")], tracing=tracing)
    assert choice.name.endswith("without the prefix 'bert.'")
    sizes = [group.size for group in choice.bound.groups.values() if not group.fixed]
    assert config["intermediate_size"] in sizes


@pytest.mark.slow
def test_an_architecture_that_nobody_knows_is_no_bug(tmp_path):
    saved(tmp_path / "a", "deepseek_v3")  # which no bundled spec fits
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["architectures"] = ["DeepseekWithWings"]
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    done = run(tmp_path, "align", "a", "a", "-o", "c")
    assert done.code == 2
    assert "no bundled spec fits this checkpoint" in done.err
    assert "transformers has no class 'DeepseekWithWings'" in done.err


@pytest.mark.slow
def test_a_cached_trace_needs_no_transformers(tmp_path):
    saved(tmp_path / "a", "deepseek_v3")  # which no bundled spec fits
    before = run(tmp_path, "spec", "trace", "hf:a")
    (tmp_path / "transformers.py").write_text("raise RuntimeError('imported')\n")
    done = fresh("spec", "trace", "hf:a", cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert (done.code, done.out) == (0, before.out)
    again = fresh("spec", "trace", "hf:a", "--no-cache", cwd=tmp_path)
    assert again.code != 0
