"""Which weight files a path stands for: a file, a folder, or the index of a sharded checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from rebasin_cli.checkpoint.distributed.piece_index import pieces_among
from rebasin_cli.checkpoint.endings import ENDINGS, INDEX_ENDING, format_of, is_weight_name
from rebasin_cli.checkpoint.failures import cap_problems, reading
from rebasin_cli.checkpoint.foreign import FolderListing, foreign_folder, foreign_name
from rebasin_cli.checkpoint.remote.mirror import Mirror
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.errors import CheckpointError, Problem, RebasinError
from rebasin_cli.wording import and_more, listing, shorten

# What transformers and diffusers write; variants such as model.fp16.safetensors lie beside it.
_SINGLES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
# What PEFT writes beside adapter_config.json.
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_INDEXES = tuple(f"{name}{INDEX_ENDING}" for name in _SINGLES)
# NAME-00001-of-00002.ENDING
_SHARD = re.compile(r"(?P<stem>.*?)(?P<number>\d+)-of-(?P<all>\d+)(?P<ending>\.\w+)")
# What trainers leave beside the weights.
_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)\b")
# What a folder is that has its models below it, by a name in it.
_ABOVE = {
    "model_index.json": ": it is a pipeline of diffusers, of several models",
    "snapshots": ": it is the cache of a model from the hub",
    "trainer_state.json": ": it is a training run",
}
_LISTED = 12
# An index of a billion-parameter model has some 100 KB; this bounds what a wrong file can cost.
_MAX_INDEX = 100_000_000


@dataclass(frozen=True)
class WeightSet:
    """The weight files of one checkpoint, sorted.

    folder: None for a file that was named itself. index: the file name of the index, if any.
    weight_map: stored tensor name -> file name, as the index has it; empty without one.
    notes: what else the index says of the whole, its "metadata". pieces: a distributed checkpoint.
    mirror: if the files stand for others elsewhere.
    """

    files: tuple[Path, ...]
    folder: Path | None = None
    index: str | None = None
    weight_map: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    pieces: bool = False
    mirror: Mirror | None = None

    @property
    def home(self) -> Path:
        """The folder of the files that go with the weights."""
        return self.folder or (self.files[0].parent if self.files else Path())

    def name_of(self, file: Path) -> str:
        """Return a file's name within the folder, with forward slashes."""
        return file.relative_to(self.folder).as_posix() if self.folder else file.name


def find_weights(path: Path, *, adapters: bool = False) -> WeightSet:
    """Return the weight files of a path.

    In a folder an index comes first, then the usual names, then the only weight file, or the
    shards of one model. adapters: the folder of an adapter is one of weights too.
    Raises CheckpointError if there is none or more than one.
    """
    with reading(path):
        is_folder = path.is_dir()
    if not is_folder:
        named_index = path.name.endswith(INDEX_ENDING)
        return _weights_of_index(path) if named_index else WeightSet(files=(path,))
    inside = names_in(path)
    pieces = pieces_among(inside.files)
    if pieces:
        return WeightSet(files=tuple(path / name for name in pieces), folder=path, pieces=True)
    chosen = _choose(inside, path, adapters=adapters)
    if len(chosen) == 1 and chosen[0].endswith(INDEX_ENDING):
        return _weights_of_index(path / chosen[0])
    return WeightSet(files=tuple(path / name for name in chosen), folder=path)


def names_in(folder: Path) -> FolderListing:
    """Return what a folder holds, by name, sorted."""
    with reading(folder):
        children = sorted(folder.iterdir())
        folders = [child.name for child in children if child.is_dir()]
    return FolderListing([child.name for child in children if child.name not in folders], folders)


def _choose(inside: FolderListing, folder: Path, *, adapters: bool) -> Sequence[str]:
    """Return the index, or the weight files of the only model in a folder."""
    names = [name for name in inside.files if not name.startswith(".")]
    indexes = [name for name in names if name.endswith(INDEX_ENDING) and is_weight_name(name)]
    weights = [name for name in names if format_of(name)]
    for usual in (*_INDEXES, *([] if indexes else _SINGLES), *(_ADAPTERS if adapters else ())):
        if usual in names:
            return [usual]
    foreign = foreign_folder(inside)
    if foreign:
        raise foreign.refusal(str(folder))
    candidates = indexes or [name for name in weights if not _STATE.match(name)] or weights
    if not candidates:
        raise _no_weights(inside, folder)
    safe = [name for name in candidates if format_of(name) == "safetensors"]
    shards = None if indexes else _shards(safe, folder) or _shards(candidates, folder)
    if shards or len(candidates) == 1:
        return shards or candidates
    raise CheckpointError(
        f"{len(candidates)} weight files in this folder",
        where=str(folder),
        detail=listing(candidates),
        hint="name one of them",
    )


def _shards(names: Sequence[str], folder: Path) -> Sequence[str] | None:
    """Return the shards of a model that has no index, None if the files are not such.

    Raises CheckpointError if one of them is missing.
    """
    parts = [_SHARD.fullmatch(name) for name in names]
    if not all(parts) or len({(p["stem"], p["all"], p["ending"]) for p in parts if p}) != 1:
        return None
    first = parts[0]
    assert first is not None
    count, width = int(first["all"]), len(first["number"])
    wanted = [
        f"{first['stem']}{number:0{width}}-of-{first['all']}{first['ending']}"
        for number in range(1, count + 1)
    ]
    lacking = sorted(set(wanted) - set(names))
    _require_all(wanted, lacking, folder)
    return wanted


def _require_all(wanted: Sequence[str], lacking: Sequence[str], where: Path) -> None:
    """Raise CheckpointError if shards of a model are missing."""
    if lacking:
        raise CheckpointError(
            f"{len(lacking)} of {len(wanted)} shards are missing",
            where=str(where),
            detail=listing(lacking),
            hint="download them too: a model is all of its shards",
        )


def _no_weights(inside: FolderListing, folder: Path) -> CheckpointError:
    """Return what to say of a folder without weights: what is in it, what lies below."""
    below = folders_below(folder, _holds_weights)
    foreign = next(filter(None, map(foreign_name, inside.files)), None)
    if foreign and not below:
        return CheckpointError(
            f"no weights in this folder, but {foreign.what}", where=str(folder), hint=foreign.hint
        )
    if not below:
        known = f"known endings: {' '.join(ENDINGS)}"
        return CheckpointError("no weights in this folder", where=str(folder), detail=known)
    kind = next((k for n, k in _ABOVE.items() if n in (*inside.files, *inside.folders)), "")
    # the last are shown: they are those of a training run that anyone wants
    paths = list(map(str, [*below[-_LISTED:], *below[:-_LISTED]]))
    return CheckpointError(
        f"no weights in this folder, but below it{kind}",
        where=str(folder),
        detail="\n".join(f"  {path}" for path in shorten(paths, _LISTED, and_more)),
        hint="name one of them",
    )


def _holds_weights(folder: Path) -> bool:
    """Return whether a folder is a model; one that may not be looked into is none."""
    try:
        names = names_in(folder)
    except RebasinError:
        return False
    return any(map(is_weight_name, names.files)) and not foreign_folder(names)


def _weights_of_index(index: Path) -> WeightSet:
    weight_map, notes = _read_index(index)
    folder = index.parent
    names = sorted(set(weight_map.values()))
    with reading(index):
        missing = [name for name in names if not (folder / name).is_file()]
    _require_all(names, missing, index)
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
        raise CheckpointError(*cap_problems(wrong))
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


# A hub cache has them three deep: models--org--name/snapshots/HASH.
_DEEPEST = 3
# Folders looked into: a home full of runs has to have an end.
_MOST = 2000
# What is inside a hub cache beside its snapshots.
_INSIDES = frozenset({"blobs", "refs"})


def folders_below(folder: Path, holds: Callable[[Path], bool]) -> list[Path]:
    """Return the folders below one that hold weights, the last steps of a training run last."""
    found = [path for path in islice(_walk(folder, _DEEPEST), _MOST) if holds(path)]
    return sorted(found, key=lambda path: _natural(str(path)))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    children: list[Path] = []
    with suppress(OSError):
        children = sorted(child for child in folder.iterdir() if child.is_dir())
    children = [c for c in children if not c.name.startswith(".") and c.name not in _INSIDES]
    yield from children
    if depth > 1:
        for child in children:
            yield from _walk(child, depth - 1)


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a key under which checkpoint-100 comes after checkpoint-20."""
    parts = re.split(r"(\d+)", text)
    return [
        (int(number), word) for word, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    ]
