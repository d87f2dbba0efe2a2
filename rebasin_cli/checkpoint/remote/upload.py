"""Results brought to a store: written here first, then sent under another name and moved."""

from __future__ import annotations

import importlib
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.endings import INDEX_ENDING, of_weights
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.checkpoint.remote.stores import talking_to
from rebasin_cli.errors import UsageError


@contextmanager
def new_upload(target: RemotePath, *, overwrite: bool) -> Iterator[Path]:
    """Yield a local path; what lies there becomes `target` when the block ends without exception.

    A file is replaced in one step. Of a folder, which has to be new, the weights come last, so that
    nobody takes half of it for a model. After a failure nothing of it is left.
    """
    with tempfile.TemporaryDirectory(prefix="rebasin-") as folder:
        local = Path(folder) / target.name
        yield local
        with talking_to(str(target), what="cannot write") as (store, key):
            if store.exists(key) and (store.isdir(key) or not overwrite):
                raise UsageError("already exists", where=str(target), hint="name another output")
            _send(store, local, key)


def _send(store: Any, local: Path, key: str) -> None:
    parent, _, name = key.rpartition("/")
    hidden = f"{parent}/.{name}.{secrets.token_hex(8)}.tmp"
    files = {f"/{name}": local / name for name in _names(local)} if local.is_dir() else {"": local}
    moved: list[str] = []
    try:
        for inside, path in files.items():
            store.put_file(str(path), f"{hidden}{inside}")
        for inside in files:
            _move(store, f"{hidden}{inside}", f"{key}{inside}")
            moved.append(f"{key}{inside}")
    except BaseException:
        if local.is_dir():
            _remove(store, moved)
        raise
    finally:
        _remove(store, [f"{hidden}{inside}" for inside in files])


def _names(folder: Path) -> list[str]:
    """Return the files of a folder, those of weights last, and of these the index."""
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return sorted(names, key=lambda name: (of_weights(name), name.endswith(INDEX_ENDING), name))


def _move(store: Any, old: str, new: str) -> None:
    """Give a file its name: in one step where the store can, else by a copy in the store.

    Not by the `mv` that all stores inherit: it takes a `*` in a name for more than a letter.
    """
    inherited = importlib.import_module("fsspec.spec").AbstractFileSystem.mv
    if type(store).mv is inherited:
        store.cp_file(old, new)
    else:
        store.makedirs(new.rpartition("/")[0], exist_ok=True)
        store.mv(old, new)


def _remove(store: Any, names: list[str]) -> None:
    for name in names:
        with suppress(Exception):  # it may not be there, and another failure is on its way
            store.rm_file(name)
