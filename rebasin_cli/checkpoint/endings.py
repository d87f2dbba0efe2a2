"""Which format the ending of a file's name stands for: asked before a file is read or written."""

from __future__ import annotations

from pathlib import PurePath

from rebasin_cli.checkpoint.torch_format.torch_file import TorchFormat

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
ENDINGS = (".safetensors", *_TORCH)
# What training scripts call PyTorch files, though nothing is in a tar archive.
_DOUBLE = (".pt.tar", ".pth.tar")


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
    """Return a file's name up to its ending."""
    return path.name.removesuffix(file_ending(path))
