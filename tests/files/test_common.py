"""`--common`: other vocabularies, classes and channels; and what is said without it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from tests.cli.build import State, load, mlp, near, same, save, shuffled
from tests.cli.harness import Done, rebasin

AB = ("a.safetensors", "b.safetensors")
WIDTHS = (6, 8, 11, 9)
CLASSES = [(4, 7), (7, 4)]


def run(folder: Path, *argv: str) -> Done:
    return rebasin(*argv, cwd=folder)


def classifiers(folder: Path, ours: int, theirs: int) -> tuple[State, State]:
    """Write two perceptrons with as many classes each, the second near a shuffled first."""
    large = mlp(1, (*WIDTHS, max(ours, theirs)))
    other = near(shuffled(large), 2)
    states = []
    for name, state, classes in (("a", large, ours), ("b", other, theirs)):
        cut = {n: t[:classes].clone() if n.startswith("6.") else t for n, t in state.items()}
        states.append(load(save(folder / f"{name}.safetensors", cut)))
    return states[0], states[1]


def computed(state: State, x: torch.Tensor) -> torch.Tensor:
    for layer in (0, 2, 4, 6):
        x = x @ state[f"{layer}.weight"].double().T + state[f"{layer}.bias"].double()
        x = x.relu() if layer < 6 else x
    return x


@pytest.mark.parametrize(("ours", "theirs"), CLASSES)
def test_an_aligned_model_keeps_its_classes_and_its_function(tmp_path, ours, theirs):
    _, b = classifiers(tmp_path, ours, theirs)
    done = run(tmp_path, "align", *AB, "--common", "--json")
    aligned = load(tmp_path / "b.aligned.safetensors")
    moved = [group["moved"] for group in done.events[1]["groups"]]
    x = torch.randn(5, 6, dtype=torch.float64)
    assert all(moved)
    assert aligned["6.weight"].shape == b["6.weight"].shape
    assert torch.allclose(computed(b, x), computed(aligned, x), atol=1e-10)


@pytest.mark.parametrize(("ours", "theirs"), CLASSES)
@pytest.mark.parametrize(
    "argv", [("merge",), ("lerp", "--align", "--at", "0.5")], ids=("merge", "lerp")
)
def test_the_common_part_is_averaged_and_the_rest_is_the_first_ones(tmp_path, ours, theirs, argv):
    a, b = classifiers(tmp_path, ours, theirs)
    both = min(ours, theirs)
    assert run(tmp_path, *argv, *AB, "--common", "-o", "out.safetensors").code == 0
    out = load(tmp_path / "out.safetensors")
    for name, state in (("a", a), ("b", b)):
        cut = {n: t[:both].clone() if n.startswith("6.") else t for n, t in state.items()}
        save(tmp_path / f"{name}.safetensors", cut)
    assert run(tmp_path, *argv, *AB, "-f", "-o", "cut.safetensors").code == 0
    cut = load(tmp_path / "cut.safetensors")
    for name, tensor in out.items():
        assert torch.allclose(tensor[:both] if name.startswith("6.") else tensor, cut[name])
    assert torch.equal(out["6.bias"][both:], a["6.bias"][both:])
    assert out["6.weight"].shape == a["6.weight"].shape


def test_the_rest_follows_the_order_of_the_reference(tmp_path):
    a, _ = classifiers(tmp_path, 7, 4)
    argv = ("merge", *AB, "--common", "--ref", "b.safetensors", "-w", "1,0", "-o", "m.safetensors")
    assert run(tmp_path, *argv).code == 0
    merged, x = load(tmp_path / "m.safetensors"), torch.randn(5, 6, dtype=torch.float64)
    assert not same(a, merged)
    assert torch.allclose(computed(a, x), computed(merged, x), atol=1e-6)


def test_other_widths_are_refused(tmp_path):
    save(tmp_path / "a.safetensors", mlp(1, (6, 8, 11, 9, 4)))
    save(tmp_path / "b.safetensors", mlp(2, (6, 8, 12, 9, 4)))
    done = run(tmp_path, "align", *AB, "--common")
    assert done.code == 3
    assert "2.weight has 12 units, expected 11" in done.err
    assert "its axis 0 holds units of 'hidden.2'" in done.err
    assert "widths have to agree" in done.err


@pytest.mark.parametrize("command", ["align", "merge"])
def test_the_hint_leaves_out_what_differs(tmp_path, command):
    classifiers(tmp_path, 7, 4)
    refused = run(tmp_path, command, *AB)
    assert refused.code == 3
    assert "6.weight is [4, 9], expected [7, 9]" in refused.err
    (hint,) = [line for line in refused.err.splitlines() if line.startswith("hint: ")]
    words = shlex.split(hint.removeprefix("hint: ").partition(" leaves")[0])
    assert words == ["--skip", "6.bias", "--skip", "6.weight"]
    assert run(tmp_path, command, *AB, *words, "-o", "out.safetensors").code == 0


def test_what_is_left_out_may_have_another_shape(tmp_path):
    _, b = classifiers(tmp_path, 7, 4)
    assert run(tmp_path, "align", *AB, "--skip", "6.*").code == 0
    aligned, x = load(tmp_path / "b.aligned.safetensors"), torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(aligned["6.weight"], b["6.weight"])
    assert torch.allclose(computed(b, x), computed(aligned, x), atol=1e-10)


# vocabularies

SPEC = (
    "rebasin: 1\ntransposed: [embed.weight]\n"
    "tensors: {embed.weight: [~, s], up.weight: [f, s], head.weight: [~, f]}\n"
)
WORDS = ("the", "a", "of", "cat", "dog")


def tokenizers() -> dict[str, object]:
    order = {token: number for number, token in enumerate(WORDS)}
    scores = [[token, 0.0] for token in WORDS]
    return {
        "tokenizer.json": {"model": {"vocab": order}},
        "unigram": {"model": {"type": "Unigram", "vocab": scores}},
        "added": {
            "model": {"vocab": {t: n for t, n in order.items() if n < 3}},
            "added_tokens": [{"content": t, "id": n} for t, n in order.items() if n >= 3],
        },
    }


def language_model(folder: Path, seed: int, words: tuple[str, ...]) -> State:
    generator = torch.Generator().manual_seed(seed)
    state = {
        "embed.weight": torch.randn(len(words), 6, generator=generator),
        "up.weight": torch.randn(9, 6, generator=generator),
        "head.weight": torch.randn(len(words), 9, generator=generator),
    }
    return load(save(folder / "model.safetensors", state))


@pytest.mark.parametrize("kind", ["tokenizer.json", "unigram", "added", "vocab.json", "vocab.txt"])
def test_rows_of_a_vocabulary_are_those_of_the_same_token(tmp_path, kind):
    (tmp_path / "s.yaml").write_text(SPEC)
    theirs = ("dog", "new", "cat", "the")
    a = language_model(tmp_path / "a", 1, WORDS)
    b = language_model(tmp_path / "b", 2, theirs)
    ours = {token: number for number, token in enumerate(WORDS)}
    if kind in tokenizers():
        (tmp_path / "a" / "tokenizer.json").write_text(json.dumps(tokenizers()[kind]))
    elif kind == "vocab.json":
        (tmp_path / "a" / kind).write_text(json.dumps(ours))
    else:
        (tmp_path / "a" / kind).write_text("\n".join(WORDS))
    vocabulary = {token: number for number, token in enumerate(theirs)}
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    argv = ("merge", "a", "b", "--strategy", "none", "--common", "-o", "out")
    assert run(tmp_path, *argv).code == 0
    out = load(tmp_path / "out" / "model.safetensors")
    for name in ("embed.weight", "head.weight"):
        for number, token in enumerate(WORDS):
            mean = (a[name][number] + b[name][theirs.index(token)]) / 2 if token in theirs else None
            assert torch.allclose(out[name][number], a[name][number] if mean is None else mean)
    assert run(tmp_path, "align", "a", "b", "--spec", "s.yaml", "--common", "-o", "c").code == 0


def test_without_a_tokenizer_they_are_those_of_the_same_number(tmp_path):
    a, b = (language_model(tmp_path / n, k, WORDS[: 5 - k]) for k, n in enumerate("ab"))
    argv = ("merge", "a", "b", "--strategy", "none", "--common", "-o", "out")
    assert run(tmp_path, *argv).code == 0
    out = load(tmp_path / "out" / "model.safetensors")["embed.weight"]
    assert torch.allclose(out[:4], (a["embed.weight"][:4] + b["embed.weight"]) / 2)
    assert torch.equal(out[4], a["embed.weight"][4])


def test_input_channels_that_one_lacks_are_the_first_ones(tmp_path):
    spec = "rebasin: 1\ntensors: {conv_in.weight: [c, ~], conv_in.bias: [c], out.weight: [~, c]}\n"
    (tmp_path / "s.yaml").write_text(spec)
    states = []
    for seed, channels in ((1, 9), (2, 4)):
        generator = torch.Generator().manual_seed(seed)
        shapes = {"conv_in.weight": (8, channels, 3, 3), "conv_in.bias": (8,), "out.weight": (2, 8)}
        state = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
        states.append(load(save(tmp_path / f"{'ab'[seed - 1]}.safetensors", state)))
    argv = ("merge", *AB, "--spec", "s.yaml", "--common", "-o", "out.safetensors")
    assert run(tmp_path, *argv).code == 0
    out = load(tmp_path / "out.safetensors")["conv_in.weight"]
    assert torch.equal(out[:, 4:], states[0]["conv_in.weight"][:, 4:])
    assert not torch.allclose(out[:, :4], states[0]["conv_in.weight"][:, :4])
