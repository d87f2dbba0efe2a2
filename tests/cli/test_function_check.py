"""`--check`: where the model can be built, it is run before a permuted copy of it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.build import pair
from tests.cli.harness import Done, rebasin
from tests.cli.models import planted, write_net

AB = ("a.safetensors", "b.safetensors")
MODEL = ("--model", "net.py:Net")
CONFIG = {
    "vocab_size": 20,
    "n_positions": 16,
    "n_embd": 12,
    "n_layer": 1,
    "n_head": 3,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@pytest.fixture
def folder(tmp_path):
    write_net(tmp_path)
    planted(tmp_path)
    return tmp_path


@pytest.fixture
def gpts(tmp_path, monkeypatch):
    """Two small GPT-2 as transformers writes them, and a spec that takes their heads for others."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CONFIG))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
    names = list(load_file(tmp_path / "a" / "model.safetensors"))
    read = "transformer.h.0.mlp.c_proj.weight"
    fixed = "".join(f"  {name}: [~]\n" for name in names if name != read)
    (tmp_path / "wrong.yaml").write_text(
        f"rebasin: 1\ngroups: {{ffn: {{one-sided: true}}}}\ntensors:\n{fixed}  {read}: [ffn, ~]\n"
    )
    return tmp_path


def run(folder: Path, *argv: str) -> Done:
    return rebasin(*argv, cwd=folder, env={"XDG_CACHE_HOME": str(folder / "cache")})


def figures(done: Done) -> tuple[Any, Any]:
    event = [event for event in done.events if event["event"] == "result"][-1]
    return event["same_function"], event["output_difference"]


@pytest.mark.parametrize("command", [("align",), ("merge",)], ids=" ".join)
def test_what_a_check_found_is_told(folder, command):
    done = run(folder, *command, *AB, *MODEL, "-o", "out.safetensors")
    assert done.code == 0
    assert "the same function: outputs differ by" in done.err
    assert "(1 random input, float64)" in done.err
    told, difference = figures(run(folder, *command, *AB, *MODEL, "-f", "-o", "o.pt", "--json"))
    assert told is True
    assert 0 <= difference < 1e-12


def test_models_that_a_line_aligns_are_checked(folder):
    done = run(folder, "lerp", *AB, *MODEL, "--align", "--at", "0.5")
    assert "the same function: outputs differ by" in done.err


def test_it_can_be_left_out(folder):
    done = run(folder, "align", *AB, *MODEL, "--no-check", "--json")
    assert figures(done) == (None, None)


def test_a_config_beside_the_weights_tells_the_model(gpts):
    told, difference = figures(run(gpts, "align", "a", "b", "-o", "out", "--json"))
    assert told is True
    assert difference < 1e-12


@pytest.mark.parametrize(
    "command", [("align",), pytest.param(("merge",), marks=pytest.mark.slow)], ids=" ".join
)
def test_a_spec_that_breaks_the_function_writes_nothing(gpts, command):
    done = run(gpts, *command, "a", "b", "--spec", "wrong.yaml", "-o", "out")
    assert done.code == 3
    assert "b: in this order of its units hf:" in done.err
    assert "of their scale" in done.err
    assert not (gpts / "out").exists()


@pytest.mark.slow
def test_what_breaks_the_function_is_written_if_nobody_looks(gpts):
    done = run(gpts, "align", "a", "b", "--spec", "wrong.yaml", "-o", "out", "--no-check")
    assert done.code == 0


@pytest.mark.slow
def test_a_permutation_that_breaks_the_function_is_not_applied(gpts):
    save_ = ("--save-permutation", "p.safetensors")
    run(gpts, "align", "a", "b", "--spec", "wrong.yaml", "-o", "out", "--no-check", *save_)
    done = run(gpts, "apply", "p.safetensors", "b", "-o", "again")
    assert done.code == 3
    assert not (gpts / "again").exists()


def test_a_model_that_nothing_tells_cannot_be_checked(tmp_path):
    pair(tmp_path)
    done = run(tmp_path, "align", *AB, "--check")
    assert done.code == 2
    assert "nothing says which model to check with" in done.err
    assert "--model TARGET" in done.err
    assert figures(run(tmp_path, "align", *AB, "--json")) == (None, None)


@pytest.mark.slow
def test_a_config_that_is_not_of_the_weights_is_let_be_unless_a_check_is_asked_for(tmp_path):
    pytest.importorskip("transformers")
    pair(tmp_path)
    other = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **CONFIG}
    (tmp_path / "config.json").write_text(json.dumps(other))
    assert run(tmp_path, "align", *AB).code == 0
    done = run(tmp_path, "align", *AB, "--check", "-f")
    assert done.code == 3
    assert "its tensors are not those of hf:" in done.err


@pytest.mark.parametrize(
    "heads",
    [
        ("GPT2Model", "GPT2Model"),
        pytest.param(("GPT2LMHeadModel", "GPT2Model"), marks=pytest.mark.slow),
    ],
)
def test_a_backbone_whose_names_are_those_of_a_tied_model_keeps_its_output(gpts, heads):
    transformers = pytest.importorskip("transformers")
    for seed, (name, title) in enumerate(zip("ab", heads, strict=True)):
        torch.manual_seed(seed)
        backbone = transformers.GPT2Model(transformers.GPT2Config(**CONFIG))
        backbone.save_pretrained(gpts / name)
        config = json.loads((gpts / name / "config.json").read_text())
        (gpts / name / "config.json").write_text(json.dumps({**config, "architectures": [title]}))
    done = run(gpts, "align", "a", "b", "-o", "out", "--json")
    moved = {group["name"]: group["moved"] for group in done.events[1]["groups"]}
    before, after = (transformers.GPT2Model.from_pretrained(gpts / name) for name in ("b", "out"))
    ids = torch.arange(8)[None]
    assert sum(moved.values()) > 0
    assert torch.allclose(before(ids).last_hidden_state, after(ids).last_hidden_state, atol=1e-5)
