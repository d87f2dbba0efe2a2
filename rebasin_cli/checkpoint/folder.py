"""Which weight files a path stands for: a file, a folder, or the index of a sharded checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rebasin_cli.checkpoint.disk import OpenFile
from rebasin_cli.checkpoint.failures import capped, listing, reading
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.checkpoint.weight_file import ENDINGS
from rebasin_cli.errors import CheckpointError, Problem

INDEX_ENDING = ".index.json"
# What transformers and diffusers write; variants such as model.fp16.safetensors lie beside it.
_SINGLES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
_INDEXES = tuple(f"{name}{INDEX_ENDING}" for name in _SINGLES)
# An index of a billion-parameter model has some 100 KB; this bounds what a wrong file can cost.
_MAX_INDEX = 100_000_000


@dataclass(frozen=True)
class WeightSet:
    """The weight files of one checkpoint, sorted.

    folder: None for a file that was named itself. index: the file name of the index, if any.
    weight_map: stored tensor name -> file name, as the index has it; empty without one.
    notes: what else the index says of the whole, its "metadata".
    """

    files: tuple[Path, ...]
    folder: Path | None = None
    index: str | None = None
    weight_map: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def name_of(self, file: Path) -> str:
        """Return a file's name within the folder, with forward slashes."""
        return file.relative_to(self.folder).as_posix() if self.folder else file.name


def find_weights(path: Path) -> WeightSet:
    """Return the weight files of a path.

    In a folder an index comes first, then the usual names, then the only weight file.
    Raises CheckpointError if there is none or more than one.
    """
    with reading(path):
        is_folder = path.is_dir()
    if not is_folder:
        named_index = path.name.endswith(INDEX_ENDING)
        return _indexed(path) if named_index else WeightSet(files=(path,))
    with reading(path):
        names = sorted(child.name for child in path.iterdir() if not child.name.startswith("."))
    chosen = _choose(names, path)
    if chosen.endswith(INDEX_ENDING):
        return _indexed(path / chosen)
    return WeightSet(files=(path / chosen,), folder=path)


def is_weight_name(name: str) -> bool:
    """Tell whether a file name is that of weights or of an index of weights."""
    stem = name.removesuffix(INDEX_ENDING)
    return stem.lower().endswith(ENDINGS)


def _choose(names: Sequence[str], folder: Path) -> str:
    indexes = [name for name in names if name.endswith(INDEX_ENDING) and is_weight_name(name)]
    weights = [name for name in names if name.lower().endswith(ENDINGS)]
    for usual in (*_INDEXES, *([] if indexes else _SINGLES)):
        if usual in names:
            return usual
    candidates = indexes or weights
    if not candidates:
        known = " ".join(ENDINGS)
        raise CheckpointError(
            "no weights in this folder", where=str(folder), detail=f"known endings: {known}"
        )
    if len(candidates) > 1:
        raise CheckpointError(
            f"{len(candidates)} weight files in this folder",
            where=str(folder),
            detail=listing(candidates),
            hint="name one of them",
        )
    return candidates[0]


def _indexed(index: Path) -> WeightSet:
    weight_map, notes = _read_index(index)
    folder = index.parent
    names = sorted(set(weight_map.values()))
    with reading(index):
        missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        problems = [
            Problem(f"the shard {name!r} does not exist", where=str(index)) for name in missing
        ]
        raise CheckpointError(*capped(problems))
    files = tuple(folder / name for name in names)
    return WeightSet(
        files=files, folder=folder, index=index.name, weight_map=weight_map, notes=notes
    )


def _read_index(index: Path) -> tuple[dict[str, str], Mapping[str, Any]]:
    where = str(index)
    file = OpenFile(index)
    if file.size > _MAX_INDEX:
        raise CheckpointError(f"the index has {file.size} bytes, too many", where=where)
    fields = parse_object(file.read(0, file.size), where=where, what="the index")
    file.close()
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("the index has no weight_map", where=where)
    wrong = [
        Problem(f"tensor {name!r}: {reason}", where=where)
        for name, shard in weight_map.items()
        if (reason := _shard_problem(shard))
    ]
    if wrong:
        raise CheckpointError(*capped(wrong))
    notes = fields.get("metadata")
    shards = {name: PurePosixPath(shard).as_posix() for name, shard in weight_map.items()}
    return shards, notes if isinstance(notes, dict) else {}


def _shard_problem(shard: object) -> str:
    if not isinstance(shard, str) or not PurePosixPath(shard).name or "\0" in shard:
        return f"the shard {shard!r} is not a file name"
    # Text only: the shards of a download cache are links that lead outside, and rightly so.
    if PurePosixPath(shard).is_absolute() or ".." in PurePosixPath(shard).parts:
        return f"the shard {shard!r} is outside the folder"
    return ""
