"""Models as their libraries write them: the same function after align, the ends of a line exact."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from tests.benchmarks.kept.catalogue import trials
from tests.benchmarks.kept.commands import tried
from tests.benchmarks.kept.result import Trial
from tests.cli.harness import rebasin

SPOILED = "transformer.h.1.mlp.c_fc.weight"
SLOW = (
    ("bert", ".bin folder"),
    ("bert", "backbone"),
    ("gpt2", ".pt"),
    ("gpt2", "backbone"),
    ("llama", "folder and .bin"),
    ("mamba", "folder"),
    ("mixtral", "sharded"),
    ("phi3", "folder"),
    ("qwen2_moe", "folder"),
    ("t5", "backbone"),
    ("vit", "sharded"),
    ("whisper", "folder"),
)


def trial(name: str, form: str) -> Trial:
    pytest.importorskip("transformers")
    return next(one for one in trials(f"transformers:{name}") if one.name == form)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize(
    ("name", "form"),
    [("llama", "folder, tied"), *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW)],
)
def test_the_function_is_kept_and_the_ends_are_exact(tmp_path, name, form):
    result = tried(trial(name, form), tmp_path / "pair", (0, 1))
    assert (result.verdict, result.outcome) == ("kept", "kept")


def damaged(*argv, cwd, **options):
    """Run a command and spoil what it wrote: one tensor, and a file beside the weights."""
    done = rebasin(*argv, cwd=cwd, **options)
    for path in [file for file in cwd.rglob("model.safetensors") if file.parent.name not in "ab"]:
        stored = load_file(path)
        save_file({**stored, SPOILED: -stored[SPOILED]}, path, metadata={"format": "pt"})
        (path.parent / "tokenizer.json").unlink(missing_ok=True)
    return done


@pytest.mark.slow
def test_whatever_is_wrong_with_a_result_is_found(tmp_path):
    result = tried(trial("gpt2", "folder"), tmp_path / "pair", (0, 1), damaged)
    assert result.verdict == "broken"
    broken, *others = result.wrong
    assert broken.startswith("BROKEN by ")
    assert others == [
        "aligned lacks tokenizer.json",
        "merged lacks tokenizer.json",
        f"alpha 0 is not the model in 1 tensors, as {SPOILED}",
        f"alpha 1 is not the model in 1 tensors, as {SPOILED}",
        "midpoint lacks tokenizer.json",
    ]
