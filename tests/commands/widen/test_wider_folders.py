"""`rebasin widen` on folders of transformers: their config.json says the new widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import rebasin

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
TEXT = {"vocab_size": 50, "max_position_embeddings": 64}
LLAMA = {**SIZES, **TEXT, "num_attention_heads": 4, "num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 1, "vocab_size": 50, "n_positions": 64}
VIT = {**SIZES, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}


def folder(home: Path, kind: str, config: dict[str, Any]) -> None:
    """Write a random model of transformers, its norms and biases random too."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = getattr(transformers, f"{kind}Config")(**config)
    head = "ForImageClassification" if kind == "ViT" else "ForCausalLM"
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}{head}")(
        settings
    )
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.3, 1.0)
    model.save_pretrained(home / "m")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config", "to", "says"),
    [
        ("Llama", LLAMA, ["hidden.*=2x"], {"intermediate_size": 96}),
        ("Llama", LLAMA, ["kv.*=4"], {"num_attention_heads": 8, "num_key_value_heads": 4}),
        ("Llama", LLAMA, ["stream=48"], {"hidden_size": 48, "num_attention_heads": 4}),
        ("Llama", {**LLAMA, "tie_word_embeddings": True}, ["stream=40"], {"hidden_size": 40}),
        ("GPT2", GPT2, ["hidden.*=2x"], {"n_inner": 256}),
        ("ViT", VIT, ["stream=48", "head*=6"], {"num_attention_heads": 6, "hidden_size": 48}),
        ("ViT", VIT, ["stream=64", "qk*=16", "vo*=16"], {"hidden_size": 64}),
    ],
)
def test_folders_get_the_widths_that_fit(
    tmp_path: Path, kind: str, config: dict[str, Any], to: list[str], says: dict[str, int]
) -> None:
    folder(tmp_path, kind, config)
    flags = [word for one in to for word in ("--to", one)]
    done = rebasin("widen", "m", *flags, "-o", "wide", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.events[0]["output_difference"] < 1e-5
    told = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert says.items() <= told.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config", "to", "told"),
    [
        ("Gemma", {**LLAMA, "head_dim": 8}, "stream=48", "the model computes something else"),
        ("Gemma2", {**LLAMA, "head_dim": 8}, "stream=48", "the spec does not say what reads it"),
        ("Llama", LLAMA, "vo.*=16", "LlamaForCausalLM cannot be built with tensors of these"),
        ("GPT2", GPT2, "stream=48", "LayerNorm takes off a mean"),
    ],
)
def test_folders_that_cannot_be_widened_are_refused(
    tmp_path: Path, kind: str, config: dict[str, Any], to: str, told: str
) -> None:
    folder(tmp_path, kind, config)
    done = rebasin("widen", "m", "--to", to, cwd=tmp_path)
    assert done.code == 2 and told in done.err
