"""Averages that a file keeps of its tensors, under names without dots."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.build import State, load, mlp, near, same, save, shuffled
from tests.cli.harness import rebasin


def with_averages(state: State) -> State:
    """Return a state dict under `model.`, with what LitEma keeps beside it."""
    own = {f"model.{name}": tensor for name, tensor in state.items()}
    kept = {f"model_ema.{name.replace('.', '')}": 0.5 * t for name, t in state.items()}
    return {**own, **kept, "model_ema.decay": torch.tensor(0.99)}


def test_averages_follow_what_they_are_averages_of(tmp_path: Path) -> None:
    first = mlp(0)
    save(tmp_path / "a.safetensors", with_averages(first))
    save(tmp_path / "b.safetensors", with_averages(shuffled(near(first, 1, 0.001))))
    done = rebasin("align", "a.safetensors", "b.safetensors", "-v", cwd=tmp_path)
    assert done.code == 0, done.err
    aligned = load(tmp_path / "b.aligned.safetensors")
    assert same(aligned, with_averages(near(first, 1, 0.001)))
    done = rebasin("verify", "b.safetensors", "b.aligned.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.parametrize("skip", [(), ("--skip", "model_ema.*")])
def test_a_model_without_averages_is_aligned_with_one_that_has_them(
    skip: tuple[str, ...], tmp_path: Path
) -> None:
    first = mlp(0)
    save(tmp_path / "a.safetensors", {f"model.{n}": t for n, t in first.items()})
    save(tmp_path / "b.safetensors", with_averages(shuffled(first)))
    done = rebasin("align", "a.safetensors", "b.safetensors", *skip, cwd=tmp_path)
    assert done.code == 0, done.err
    assert same(load(tmp_path / "b.aligned.safetensors"), with_averages(first))


def test_apply_moves_averages_too(tmp_path: Path) -> None:
    first = mlp(0)
    save(tmp_path / "a.safetensors", with_averages(first))
    save(tmp_path / "b.safetensors", with_averages(shuffled(first)))
    argv = ("a.safetensors", "b.safetensors", "--save-permutation", "p.safetensors")
    done = rebasin("align", *argv, cwd=tmp_path)
    assert done.code == 0, done.err
    done = rebasin("apply", "p.safetensors", "b.safetensors", "-o", "c.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert same(load(tmp_path / "c.safetensors"), with_averages(first))


def test_an_average_of_no_tensor_is_refused_by_name(tmp_path: Path) -> None:
    state = with_averages(mlp(0)) | {"model_ema.9weight": torch.ones(8, 6)}
    save(tmp_path / "a.safetensors", state)
    save(tmp_path / "b.safetensors", state)
    done = rebasin("align", "a.safetensors", "b.safetensors", cwd=tmp_path)
    assert done.code != 0
    assert "model_ema.9weight" in done.err
