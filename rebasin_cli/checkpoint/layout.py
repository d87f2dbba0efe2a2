"""The form of a checkpoint on disk: what a second one needs to be written the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.endings import INDEX_ENDING, TorchFormat
from rebasin_cli.checkpoint.parts import KeyPath
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.tensors import TensorInfo

_SINGLE: Mapping[TorchFormat, str] = {"safetensors": "model.safetensors", "pt": "pytorch_model.bin"}
_DIFFUSION = "diffusion_pytorch_model"  # what diffusers has for `model`


@dataclass(frozen=True)
class Layout:
    """All that is needed to write another checkpoint in the same form.

    stored: tensor name -> name in the file, where it is another.
    folder: where the other files of a folder output come from; None writes a single file.
    shards: tensor name -> file name within the folder; of one value if there is no index.
    notes: what the index says besides, its "metadata".
    containers: output file name (`""` for a single file) -> PyTorch file whose nesting is kept.
    key: the part of the containers that holds the weights, if it was named.
    ignoring: objects of foreign classes in the containers are dropped.
    ties: alias -> first name, which are one tensor in a PyTorch file.
    without: paths of what is left out of the containers. weightless: they hold no weights.
    """

    format: TorchFormat
    stored: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    shards: Mapping[str, str] = field(default_factory=dict)
    index: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    containers: Mapping[str, Path] = field(default_factory=dict)
    key: str | None = None
    ignoring: bool = False
    ties: Mapping[str, str] = field(default_factory=dict)
    without: tuple[KeyPath, ...] = ()
    weightless: bool = False

    def stored_name(self, name: str) -> str:
        """Return the name that the file has for a tensor."""
        return self.stored.get(name, name)


def layout_for(layout: Layout, format: str) -> Layout:
    """Return the layout changed to `safetensors` or `pt`.

    A nested container becomes flat, a folder stays a folder, a sharded one stays sharded.
    Raises UsageError for another format.
    """
    if format == layout.format:
        return layout
    if format == "safetensors":
        return _layout_in_format(layout, "safetensors")
    if format == "pt":
        return _layout_in_format(layout, "pt")
    known = tuple(_SINGLE)
    raise UsageError(
        f"unknown format {format!r}",
        detail=f"known: {', '.join(known)}",
        hint=suggest(format, known),
    )


def _layout_in_format(layout: Layout, format: TorchFormat) -> Layout:
    single = _SINGLE[format]
    names = sorted(set(layout.shards.values()))
    renamed = {name: _shard_name(name, format) if layout.index else single for name in names}
    return replace(
        layout,
        format=format,
        shards={tensor: renamed[name] for tensor, name in layout.shards.items()},
        index=f"{single}{INDEX_ENDING}" if layout.index else None,
        containers={},
        key=None,
        without=(),
    )


def in_shards(layout: Layout, tensors: Sequence[TensorInfo], most: int, folder: Path) -> Layout:
    """Return the layout of a folder whose safetensors files hold at most so many bytes of tensors.

    Their names are those that transformers writes. A larger tensor has a file of its own; where
    one file is enough, there is no index. folder: taken for the layout's if it has none.
    """
    files = _filled(tensors, most)
    stem = Path(layout.index or next(iter(layout.shards.values()), "")).name.split(".")[0]
    stem = stem if stem == _DIFFUSION else "model"
    names = [f"{stem}-{k:05}-of-{len(files):05}.safetensors" for k in range(1, len(files) + 1)]
    several = len(files) > 1
    named = zip(names if several else [f"{stem}.safetensors"], files, strict=True)
    return replace(
        layout,
        folder=layout.folder or folder,
        shards={info.name: name for name, held in named for info in held},
        index=f"{stem}.safetensors{INDEX_ENDING}" if several else None,
    )


def _filled(tensors: Sequence[TensorInfo], most: int) -> list[list[TensorInfo]]:
    """Return the tensors of each file, in their order."""
    files: list[list[TensorInfo]] = [[]]
    room = most
    for info in tensors:
        if files[-1] and info.nbytes > room:
            files.append([])
            room = most
        files[-1].append(info)
        room -= info.nbytes
    return files


def _shard_name(name: str, format: TorchFormat) -> str:
    """Return `model-1-of-2.safetensors` for `pytorch_model-1-of-2.bin`, and the reverse."""
    old, new = ("pytorch_model", "model") if format == "safetensors" else ("model", "pytorch_model")
    path = Path(name)
    stem = new + path.stem.removeprefix(old) if path.stem.startswith(old) else path.stem
    return path.with_name(stem + Path(_SINGLE[format]).suffix).as_posix()
