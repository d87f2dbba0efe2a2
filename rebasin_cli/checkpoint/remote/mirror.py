"""A local folder in the place of a remote one: small files copied, weights read when asked for."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from rebasin_cli.checkpoint.endings import INDEX_ENDING, of_weights
from rebasin_cli.checkpoint.failures import changed_in_use
from rebasin_cli.checkpoint.remote.hub import snapshot_of
from rebasin_cli.checkpoint.remote.remote_path import HUB, RemotePath, named_path
from rebasin_cli.checkpoint.remote.stores import talking_to
from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.errors import MachineError, RebasinError

# Read at once: a header fits, and small tensors come with their neighbours.
BLOCK = 4 << 20
# In one request: what a tensor lacks, in pieces that memory has room for.
_MOST_BLOCKS = 16
# Files of a folder, and of the folders in it: below those lie other models.
_DEEP = 2
# What is read beside a file that was named itself.
_BESIDE = ("config.json",)
# By which a store tells that a file is another one than before, the surest first.
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")


class RemoteFile(OpenFile):
    """A file elsewhere, kept block by block in a local one: no byte is asked for twice.

    path: of the local file, as long as the whole, with holes where nothing was read yet.
    """

    def __init__(self, path: Path, url: str, mirror: Mirror) -> None:
        self._url = url
        self._mirror = mirror  # the local file is gone once nobody holds it
        super().__init__(path)
        self._lacking = set(range(-(-path.stat().st_size // BLOCK)))
        self._lock = Lock()
        if self.size != path.stat().st_size:
            raise changed_in_use(self._url)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self._fetch(offset, offset + len(buffer))
        self._fill(buffer, offset)

    def require_unchanged(self) -> None:
        """Do nothing: what is here was checked when it came."""

    def fetch_all(self) -> None:
        """Bring all of the file here."""
        self._fetch(0, self.size)

    def _fetch(self, begin: int, end: int) -> None:
        with self._lock:
            wanted = range(begin // BLOCK, -(-end // BLOCK))
            for run in _runs(sorted(self._lacking.intersection(wanted))):
                self._fetch_blocks(run)

    def _fetch_blocks(self, blocks: range) -> None:
        begin, end = blocks.start * BLOCK, min(blocks.stop * BLOCK, self.size)
        with talking_to(self._url) as (store, key):
            data = store.cat_file(key, start=begin, end=end)
        if self._current_stamp() != self.stamp:
            raise changed_in_use(self._url)
        if len(data) != end - begin:
            what = f"asked for {end - begin} bytes, got {len(data)}"
            hint = "its server does not give parts of files: copy it here first"
            raise MachineError(what, where=self._url, hint=hint)
        with self.path.open("r+b") as file:
            file.seek(begin)
            file.write(data)
        self._lacking.difference_update(blocks)

    def _current_stamp(self) -> tuple[int, object]:
        with talking_to(self._url) as (store, key):
            info = store.info(key)
        return info["size"], next((str(info[k]) for k in _VERSIONS if info.get(k)), "")


class Mirror:
    """What stands here for a URL: `path`, a file or a folder.

    The folder is removed when nobody holds the mirror any more; a snapshot of the hub stays.
    """

    def __init__(self, url: RemotePath) -> None:
        self._url = url
        self._elsewhere: dict[Path, str] = {}
        if url.scheme == HUB:
            self.path = snapshot_of(url)
            return
        folder = Path(tempfile.mkdtemp(prefix="rebasin-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        names_file, listed = _listed(url)
        self.path = folder / url.name if names_file else folder
        for name, found in listed.items():
            whole = not (of_weights(name) or (names_file and name == url.name))
            self._place(folder / name, found, whole=whole or name.endswith(INDEX_ENDING))

    def open(self, path: Path) -> OpenFile:
        """Open a file of the mirror for positioned reads."""
        url = self._elsewhere.get(path)
        return RemoteFile(path, url, self) if url else OpenFile(path)

    def named(self, error: RebasinError) -> RebasinError:
        """Return an error of a local file with the URL in the place of its path."""
        here, there = str(self.path), str(self._url)
        texts = ("what", "where", "detail", "hint")
        problems = [
            replace(p, **{text: getattr(p, text).replace(here, there) for text in texts})
            for p in error.problems
        ]
        return type(error)(*problems)

    def _place(self, path: Path, found: StoredFile, *, whole: bool) -> None:
        """Copy a file, or make one that is as long and has nothing in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if whole:
            with talking_to(found.url) as (store, key):
                store.get_file(key, str(path))
            return
        with path.open("wb") as file:
            file.truncate(found.size)
        self._elsewhere[path] = found.url


@dataclass(frozen=True)
class StoredFile:
    """A file of a store. size: in bytes."""

    url: str
    size: int


def _listed(url: RemotePath) -> tuple[bool, dict[str, StoredFile]]:
    """Return whether a URL names a file, and what is there and goes with it, by name.

    An index is a file that goes with its whole folder.
    """
    with talking_to(str(url)) as (store, key):
        info = store.info(key)
        if info["type"] == "directory":
            return False, dict(_inside(store, key))
        parent = key.rpartition("/")[0]
        if url.name.endswith(INDEX_ENDING):
            return True, dict(_inside(store, parent))
        found = {url.name: _stored_file(store, key, info)}
        for name in _BESIDE:
            # A store that does not let its folders be listed forbids what is not there.
            with suppress(FileNotFoundError, PermissionError):
                beside = f"{parent}/{name}"
                found[name] = _stored_file(store, beside, store.info(beside))
        return True, found


def _inside(store: Any, folder: str) -> Iterator[tuple[str, StoredFile]]:
    """Yield the files below a folder, by their paths in it."""
    start = folder.rstrip("/") + "/"
    for key, info in sorted(store.find(folder, maxdepth=_DEEP, detail=True).items()):
        name = key.removeprefix(start)
        # Names of objects are free: none may lead out of the local folder.
        if name != key and PurePosixPath(name).as_posix() == name and _stays_inside(name):
            yield name, _stored_file(store, key, info)


def _stays_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in PurePosixPath(name).parts and "\0" not in name


def _stored_file(store: Any, key: str, info: Mapping[str, Any]) -> StoredFile:
    url, size = str(named_path(store.unstrip_protocol(key))), info.get("size")
    if not isinstance(size, int):
        hint = "copy it here first"
        raise MachineError("its server does not say how long it is", where=url, hint=hint)
    return StoredFile(url, size)


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Yield the runs of neighbours among sorted numbers, the long ones in pieces."""
    start = 0
    for k in range(1, len(numbers) + 1):
        ended = k == len(numbers) or numbers[k] != numbers[k - 1] + 1
        if ended or k - start == _MOST_BLOCKS:
            yield range(numbers[start], numbers[k - 1] + 1)
            start = k
