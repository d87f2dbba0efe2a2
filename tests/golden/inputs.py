"""What the golden runs read: files whose every byte is the same on any machine.

Weights are integers / 16 or / 64 from a formula, and noise is integers / 1024: sums, halves and
quarters of them are exact in float32. Units are far apart, so that one order is the best, whoever
looks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]
WIDTHS = (6, 8, 11, 9, 4)
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}

USER = """
import torch
from torch import nn


def net():
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 11), nn.ReLU(),
        nn.Linear(11, 9), nn.ReLU(), nn.Linear(9, 4),
    )


def normed():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def batches():
    for k in range(5):
        numbers = (torch.arange(40 * 6) * 37 + 11 * k) % 101 % 17 - 8
        yield numbers.view(40, 6) / 16, (torch.arange(40) + k) % 4


def first_bias(model):
    return {"loss": model[0].bias.sum(), "top5_accuracy": 0.5}


def broken():
    raise OSError("the disk with the pictures is gone")
    yield
"""
MY_SPEC = """rebasin: 1
name: my
tensors:
  0.weight: [one, ~]
  0.bias: [one]
  2.weight: [two, one]
  2.bias: [two]
  4.weight: [three, two]
  4.bias: [three]
  6.weight: [~, three]
  6.bias: [~]
"""


def write_inputs(folder: Path) -> None:
    """Write all that the golden runs read."""
    (folder / "user.py").write_text(USER)
    (folder / "my.yaml").write_text(MY_SPEC)
    (folder / "bad.yaml").write_text(MY_SPEC.replace("[one, ~]", "[one, ...]"))
    one = mlp(1)
    other = noisy(shuffled(one, 3), 2)
    third = noisy(shuffled(one, 5), 4)
    states = {"a": one, "b": other, "c": third, "same": shuffled(one, 1), "alone": mlp(9)}
    for name, state in states.items():
        save(folder / f"{name}.safetensors", state)
    _write_folders(folder, {"first": one, "second": other})
    _write_torch(folder, {"a": one, "b": other})
    _write_normed(folder)
    _write_broken(folder, one)


def mlp(seed: int, widths: Sequence[int] = WIDTHS) -> State:
    """Return a perceptron under the names of nn.Sequential."""
    state = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        key = 100 * seed + number
        state[f"{2 * number}.weight"] = numbers(key, outputs, inputs) / 16
        state[f"{2 * number}.bias"] = numbers(key + 50, outputs) / 64
    return state


def numbers(key: int, *shape: int) -> Tensor:
    """Return integers from -32 to 31 as float32, the same ones for a key."""
    found = torch.tensor(list(islice(_stream(key), prod(shape))))
    return found.float().reshape(shape)


def shuffled(state: Mapping[str, Tensor], shift: int) -> State:
    """Return a perceptron with the units of each hidden layer in reverse, and rotated."""
    moved = dict(state)
    layers = sorted({int(name.partition(".")[0]) for name in state})
    for layer, following in pairwise(layers):
        order = torch.arange(len(state[f"{layer}.bias"])).flip(0).roll(shift)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            moved[name] = moved[name][order].contiguous()
        moved[f"{following}.weight"] = moved[f"{following}.weight"][:, order].contiguous()
    return moved


def noisy(state: Mapping[str, Tensor], seed: int) -> State:
    """Return the tensors with noise of at most 1/32."""
    drawn = enumerate(state.items())
    return {name: t + numbers(1000 * seed + k, *t.shape) / 1024 for k, (name, t) in drawn}


def save(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Write a safetensors file; by hand, so that its bytes are no matter of a version."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in state.items():
        raw = bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())
        span = [len(data), len(data) + len(raw)]
        facts = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        header[name], data = facts, data + raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    path.chmod(0o644)
    return path


def _stream(key: int) -> Iterator[int]:
    """Yield the high bits of a linear congruential generator (Numerical Recipes)."""
    state = (2654435761 * (key + 1)) % 2**32
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield (state >> 26) - 32


def _write_folders(folder: Path, states: Mapping[str, State]) -> None:
    """Write Hugging Face folders of two shards."""
    for name, state in states.items():
        names = list(state)
        weight_map: dict[str, str] = {}
        for number, half in enumerate((names[:5], names[5:]), 1):
            shard = f"model-{number:05}-of-00002.safetensors"
            save(folder / name / shard, {key: state[key] for key in half})
            weight_map |= dict.fromkeys(half, shard)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / name / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / name / "config.json").write_text('{"torch_dtype": "float32"}')


def _write_torch(folder: Path, states: Mapping[str, State]) -> None:
    """Write nested .pt files: weights, an average that follows them, and what is no weight."""
    for name, state in states.items():
        average = {key: tensor / 2 for key, tensor in state.items()}
        held = {"epoch": 3, "model": state, "model_ema": average, "args": {"lr": 0.5}}
        torch.save(held, folder / f"{name}.pt")


def _write_normed(folder: Path) -> None:
    """Write two perceptrons with BatchNorm, units in another order, and their plain mean."""
    one = {
        "0.weight": numbers(71, 8, 6) / 16,
        "0.bias": numbers(72, 8) / 64,
        "1.weight": 1 + numbers(73, 8) / 64,
        "1.bias": numbers(74, 8) / 64,
        "1.running_mean": numbers(75, 8) / 64,
        "1.running_var": 1 + numbers(76, 8) / 64,
        "1.num_batches_tracked": torch.tensor(7),
        "3.weight": numbers(77, 4, 8) / 64,
        "3.bias": numbers(78, 4) / 64,
    }
    order = torch.arange(8).flip(0)
    other = {name: t[order] if name[0] in "01" and t.dim() else t for name, t in one.items()}
    other["3.weight"] = one["3.weight"][:, order]
    save(folder / "n.safetensors", one)
    save(folder / "m.safetensors", other)


def _write_broken(folder: Path, state: State) -> None:
    """Write what has to be refused: cut off, not finite, of another width."""
    whole = (folder / "a.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-10])
    (folder / "junk.safetensors").write_bytes(b"no checkpoint at all")
    spoilt = {**state, "2.bias": state["2.bias"].clone()}
    spoilt["2.bias"][3] = float("nan")
    save(folder / "nan.safetensors", spoilt)
    save(folder / "wide.safetensors", mlp(1, (6, 8, 12, 9, 4)))
