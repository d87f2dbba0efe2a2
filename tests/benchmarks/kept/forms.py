"""The forms that models have on disk: how each is written, read back, and compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.benchmarks.kept.kinds import Kind, loaded

BESIDE = {"tokenizer.json": '{"version": "1.0"}', "README.md": "# A model\n"}  # any content
SHARDS = 3
WRAPPED = "module."  # in front of the names of a model trained on several devices
PICKLES = (".bin", ".pt", ".pth", ".tar")
WEIGHTS = (".safetensors", *PICKLES, ".index.json")


@dataclass(frozen=True)
class Form:
    """One way to write a model. end: of the path; write: puts the model there.

    folder: read by the library itself; a file is read here, and loaded strictly.
    """

    name: str
    end: str
    write: Callable[[Kind, nn.Module, Path], None]

    @property
    def folder(self) -> bool:
        return not self.end


def _folder(kind: Kind, model: nn.Module, path: Path, **options: object) -> None:
    """Write what the library writes, and files that users keep beside it."""
    assert kind.save is not None
    kind.save(model, path, **options)
    for name, text in BESIDE.items():
        (path / name).write_text(text)


def _bin(kind: Kind, model: nn.Module, path: Path) -> None:
    """Write the folder of older versions: a pickle, in which tied tensors have all their names."""
    _folder(kind, model, path)
    stored: dict[str, Tensor] = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        twin = next((n for n in stored if n in state and state[n] is tensor), None)
        if name not in stored and twin:
            stored[name] = stored[twin]
    torch.save(stored, path / "pytorch_model.bin")


def _sharded(kind: Kind, model: nn.Module, path: Path) -> None:
    size = sum(tensor.nbytes for tensor in model.parameters()) // SHARDS
    _folder(kind, model, path, max_shard_size=size)
    assert (path / "model.safetensors.index.json").exists()


def _pickle(kind: Kind, model: nn.Module, path: Path) -> None:
    """Write one file, for a model of transformers beside its config.json."""
    torch.save(model.state_dict(), path)
    if kind.config is not None:
        kind.config.architectures = [kind.name]
        kind.config.save_pretrained(path.parent)


def _training(kind: Kind, model: nn.Module, path: Path) -> None:
    """Write what training scripts write: the weights of a wrapped model, and where it stands."""
    state = {f"{WRAPPED}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "arch": kind.name, "state_dict": state, "best_acc1": 0.5}, path)


def _safetensors(_: Kind, model: nn.Module, path: Path) -> None:
    save_file({n: t.clone() for n, t in model.state_dict().items()}, path)


FOLDER = Form("folder", "", _folder)
BIN = Form(".bin folder", "", _bin)
SHARDED = Form("sharded", "", _sharded)
PT = Form(".pt", ".pt", _pickle)
PTH = Form(".pth", ".pth", _pickle)
TRAINING = Form(".pth.tar", ".pth.tar", _training)
SAFETENSORS = Form(".safetensors", ".safetensors", _safetensors)


def read(kind: Kind, path: Path) -> nn.Module:
    """Return the model of a folder or file, as its own library loads it."""
    if path.is_dir():
        assert kind.load is not None
        return kind.load(path)
    state = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    if all(name.startswith(WRAPPED) for name in state):
        state = {name.removeprefix(WRAPPED): tensor for name, tensor in state.items()}
    return loaded(kind, state)


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder or file by name."""
    found: dict[str, Tensor] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.name.endswith(".safetensors"):
            found |= load_file(file)
        elif file.name.endswith(PICKLES):
            found |= _unpickled(file)
    return found


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    stored: dict[str, Any] = torch.load(path, weights_only=True)
    return stored.get("state_dict", stored)


def beside(path: Path) -> dict[str, object]:
    """Return the files of a folder that hold no weights: JSON as such, others as bytes."""
    if not path.is_dir():
        return {}
    files = [file for file in path.iterdir() if not file.name.endswith(WEIGHTS)]
    return {
        file.name: json.loads(file.read_text()) if file.suffix == ".json" else file.read_bytes()
        for file in files
    }
