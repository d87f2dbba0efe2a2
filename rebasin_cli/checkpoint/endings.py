"""Which format the ending of a file's name stands for: asked before a file is read or written."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

TorchFormat = Literal["safetensors", "pt"]

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
ENDINGS = (".safetensors", *_TORCH)
# What training scripts call PyTorch files, though nothing is in a tar archive.
_DOUBLE = (".pt.tar", ".pth.tar")
INDEX_ENDING = ".index.json"
# The weights of other programs: beside new weights they would be those of another model.
_FOREIGN = (".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".tflite", ".distcp")
WEIGHT_ENDINGS = (*ENDINGS, *_DOUBLE, *_FOREIGN)


def format_of(path: PurePath | str) -> TorchFormat | None:
    """Return the format that a name's ending stands for, in upper or lower case; None if none."""
    ending = file_ending(path).lower()
    if ending == ".safetensors":
        return "safetensors"
    return "pt" if ending in (*_TORCH, *_DOUBLE) else None


def file_ending(path: PurePath | str) -> str:
    """Return the last suffix of a name as it is written, or both of `.pth.tar`."""
    path = PurePath(path)
    both = "".join(path.suffixes[-2:])
    return both if both.lower() in _DOUBLE else path.suffix


def name_without_ending(path: PurePath) -> str:
    """Return a file's name up to its ending; of the index of shards that of the weights."""
    name = path.name.removesuffix(INDEX_ENDING)
    return name.removesuffix(file_ending(name))


def is_weight_name(name: str) -> bool:
    """Tell whether a file name is that of weights or of an index of weights."""
    return format_of(name.removesuffix(INDEX_ENDING)) is not None


def of_weights(name: str) -> bool:
    """Tell whether a file name is that of weights or of their index, of any program."""
    return is_weight_name(name) or name.lower().endswith(_FOREIGN)
