"""Small checkpoints for tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]
WIDTHS = (6, 8, 11, 9, 4)


def mlp(seed: int, widths: Sequence[int] = WIDTHS) -> State:
    """Return the state dict of a random perceptron under the names of nn.Sequential."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        state[f"{2 * number}.weight"] = torch.randn(outputs, inputs, generator=generator)
        state[f"{2 * number}.bias"] = torch.randn(outputs, generator=generator)
    return state


def shuffled(state: Mapping[str, Tensor], seed: int = 0) -> State:
    """Return a perceptron with the units of every hidden layer in another order."""
    generator = torch.Generator().manual_seed(seed)
    moved = dict(state)
    layers = sorted({int(name.partition(".")[0]) for name in state})
    for layer, following in pairwise(layers):
        order = torch.randperm(len(state[f"{layer}.bias"]), generator=generator)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            moved[name] = moved[name][order].contiguous()
        name = f"{following}.weight"
        moved[name] = moved[name][:, order].contiguous()
    return moved


def near(state: Mapping[str, Tensor], seed: int, noise: float = 0.05) -> State:
    """Return the tensors with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    return {n: t + noise * torch.randn(t.shape, generator=generator) for n, t in state.items()}


def save(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Write a state dict in the format of the ending."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix.lower() == ".safetensors":
        save_file(dict(state), path, metadata={"format": "pt"})
        path.chmod(0o644)
    else:
        torch.save(dict(state), path)
    return path


def load(path: Path) -> State:
    """Read a flat checkpoint with the reference implementations."""
    if path.suffix.lower() == ".safetensors":
        return load_file(path)
    state: State = torch.load(path, weights_only=True)
    return state


def pair(folder: Path, ending: str = ".safetensors") -> None:
    """Write a.EXT, and b.EXT: a with its units in another order and a little noise."""
    state = mlp(1)
    save(folder / f"a{ending}", state)
    save(folder / f"b{ending}", near(shuffled(state), 2))


def sharded(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, object]) -> Path:
    """Write a Hugging Face folder of two shards, with an index and other files."""
    names = list(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save(folder / shard, {name: state[name] for name in half})
        weight_map |= dict.fromkeys(half, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether two state dicts agree in names, dtypes and every bit."""
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )
