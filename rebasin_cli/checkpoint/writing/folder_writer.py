"""A checkpoint folder: weight files, their index, and the files that go with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path

from rebasin_cli.checkpoint.endings import is_weight_name, of_weights
from rebasin_cli.checkpoint.failures import reading, writing
from rebasin_cli.checkpoint.folder import find_weights
from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.checkpoint.writing.disk import combined_digest
from rebasin_cli.checkpoint.writing.publish import new_file, new_folder, writable_path
from rebasin_cli.checkpoint.writing.shard_writer import Job, write_shard
from rebasin_cli.errors import CheckpointError, UsageError

_TOTAL = "total_parameters"  # what transformers writes into an index beside the size


def write_folder(target: Path, job: Job, *, overwrite: bool) -> tuple[int, str]:
    """Write a folder and return the bytes and the digest of its weight files.

    The other files of the layout's folder are copied, but for those of the job. An existing
    folder is replaced whole, but what it holds besides weights stays.
    Raises UsageError if the existing folder is not a checkpoint.
    """
    source = (job.layout.folder or target).resolve()
    real = writable_path(target)
    old_weights = _weights_of(real) if overwrite else frozenset()
    digests: dict[str, str] = {}

    def keep(old: Path, new: Path) -> None:
        _carry_over(old, new, skip=old_weights)
        _require_read_back(new, digests.keys(), where=str(target))

    with new_folder(target, overwrite=overwrite, keep=keep) as folder:
        where = folder if isinstance(real, RemotePath) else target  # whose disk may be full
        if source != real:
            with writing(target):
                _copy_others(source, folder)
        sizes = _write_shards(folder, job, digests, where=where)
        for name, text in job.beside.items():
            with new_file(folder / name, overwrite=True, where=where / name) as sink:
                sink.write(text.encode())
    return sum(sizes), combined_digest(digests)


def _write_shards(folder: Path, job: Job, digests: dict[str, str], *, where: Path) -> list[int]:
    """Write the weight files, fill in their digests, and return their sizes.

    where: what errors call the folder.
    """
    parts = _partition(job)
    sizes = []
    for name, part in parts.items():
        path = folder / name
        with writing(where / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, overwrite=True, where=where / name) as sink:
            write_shard(sink, part, container=name)
        sizes.append(sink.bytes)
        digests[name] = sink.sha256
    if job.layout.index:
        named = where / job.layout.index
        with new_file(folder / job.layout.index, overwrite=True, where=named) as sink:
            sink.write(_dump_index(parts, job.layout))
    return sizes


def _partition(job: Job) -> dict[str, Job]:
    """Return the part of the job for each weight file, without files that would be empty.

    A tensor that the layout does not know goes to the last file.
    """
    names = sorted(set(job.layout.shards.values()))
    shard_of = {info.name: job.layout.shards.get(info.name, names[-1]) for info in job.tensors}
    kept = [name for name in names if name in shard_of.values()] or names[:1]
    return {
        name: replace(
            job, tensors=tuple(info for info in job.tensors if shard_of[info.name] == name)
        )
        for name in kept
    }


def _dump_index(parts: Mapping[str, Job], layout: Layout) -> bytes:
    """Return the index file: the layout's other notes are kept, its totals computed anew."""
    written = [info for part in parts.values() for info in part.tensors]
    tensors = [info for info in written if info.name not in layout.ties]
    notes = {**layout.notes, "total_size": sum(info.nbytes for info in tensors)}
    same = {info.name for info in tensors} == layout.shards.keys() - layout.ties.keys()
    if _TOTAL in notes and not same:
        notes[_TOTAL] = sum(info.numel for info in tensors if info.floating)
    weight_map = {info.name: name for name, part in parts.items() for info in part.stored()}
    index = {"metadata": notes, "weight_map": weight_map}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _weights_of(folder: Path) -> frozenset[Path]:
    """Return the files that make up the checkpoint in a folder about to be replaced."""
    with reading(folder):
        if not folder.is_dir() or not any(folder.iterdir()):
            return frozenset()
    try:
        weights = find_weights(folder, adapters=True)
    except CheckpointError as error:
        raise UsageError(
            "will not replace a folder that is not a checkpoint",
            where=str(folder),
            hint="choose another output",
        ) from error
    index = [folder / weights.index] if weights.index else []
    return frozenset([*weights.files, *index])


def _require_read_back(folder: Path, names: Set[str], *, where: str) -> None:
    """Raise if other weights that stay in the folder would be read instead of the new ones."""
    try:
        found = find_weights(folder, adapters=True)
        if {found.name_of(file) for file in found.files} == names:
            return
    except CheckpointError:
        pass
    raise UsageError(
        "the folder holds other weights, which would be mistaken for the new ones",
        where=where,
        hint="remove them or choose another output",
    )


def _copy_others(source: Path, folder: Path) -> None:
    """Copy what goes with the weights: no weights and nothing hidden.

    A folder that holds weights is another model (perhaps the target itself): left out whole.
    """
    for where, folders, files in os.walk(source):
        here = Path(where)
        if here != source and any(map(is_weight_name, files)):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not _is_other(here / name):
                continue
            copy = folder / (here / name).relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here / name, copy)


def _is_other(path: Path) -> bool:
    name = path.name
    return path.is_file() and not name.startswith(".") and not of_weights(name)


def _carry_over(old: Path, new: Path, *, skip: frozenset[Path]) -> None:
    """Bring the rest of a folder that is being replaced into its successor, by hard links."""
    for where, folders, files in os.walk(old):
        here = Path(where)
        there = new / here.relative_to(old)
        there.mkdir(exist_ok=True)
        linked = [name for name in folders if (here / name).is_symlink()]
        for name in (*files, *linked):
            if here / name not in skip and not os.path.lexists(there / name):
                os.link(here / name, there / name, follow_symlinks=False)
