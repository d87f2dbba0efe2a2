"""A file held open for positioned reads, which notices when it changes underneath."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import stat
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rebasin_cli.checkpoint.failures import changed_in_use, missing, read_failure, reading
from rebasin_cli.errors import CheckpointError, UsageError

_CHUNK = 4 << 20
_DONTNEED = 4  # MADV_DONTNEED of Linux and macOS
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of Linux
_MAPS = Path("/proc/self/maps")


class OpenFile:
    """An open regular file. Reads carry their own position, so threads may share it.

    stamp: its size and time, or of a store its version: another one is another file.
    """

    def __init__(self, path: Path) -> None:
        require_file(path)
        with reading(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.path = path
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        self.stamp = self._current_stamp()
        # cached_property would make threads wait for one another until Python 3.12
        self._digest: str | None = None

    @property
    def size(self) -> int:
        return self.stamp[0]

    @property
    def inode(self) -> int:
        """The number of the file in its file system, whatever has its name now."""
        with reading(self.path):
            return os.fstat(self._descriptor).st_ino

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`."""
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes from `offset`.

        Raises CheckpointError if the file ends early or was changed since it was opened.
        """
        self._fill(buffer, offset)
        self.require_unchanged()

    def _fill(self, buffer: memoryview, offset: int) -> None:
        self._require_open()
        while len(buffer):
            with reading(self.path):
                count = os.preadv(self._descriptor, [buffer], offset)
            if count == 0:
                raise changed_in_use(self.path)
            buffer, offset = buffer[count:], offset + count

    def fetch_all(self) -> None:
        """Do nothing: all of the file is here."""

    def require_unchanged(self) -> None:
        """Raise CheckpointError if size or modification time differ from those at opening."""
        if self._current_stamp() != self.stamp:
            raise changed_in_use(self.path)

    @property
    def sha256(self) -> str:
        """The digest of the whole file, computed once."""
        if self._digest is None:
            self._digest = self._digested()
        return self._digest

    def _digested(self) -> str:
        """Return the digest, read in chunks."""
        digest = hashlib.sha256()
        chunk = memoryview(bytearray(_CHUNK))
        for offset in range(0, self.size, _CHUNK):
            _read_ahead(self._descriptor, offset + _CHUNK, _CHUNK)
            part = chunk[: self.size - offset]
            self.read_into(part, offset)
            digest.update(part)
        self.require_unchanged()
        return digest.hexdigest()

    def close(self) -> None:
        self._close()

    def _require_open(self) -> None:
        """Raise UsageError once it is closed: its number may be that of another file by then."""
        if not self._close.alive:
            raise UsageError("the file was closed", where=str(self.path), hint="open it again")

    def _current_stamp(self) -> tuple[int, object]:
        self._require_open()
        with reading(self.path):
            status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


class Digested(Protocol):
    """What has a digest that takes time to compute, and is computed once."""

    @property
    def sha256(self) -> str: ...


def digest_files(files: Sequence[Digested], jobs: int) -> None:
    """Compute the digests of files, in so many threads at most; each takes a few MB."""
    if min(jobs, len(files)) < 2:
        return  # they are computed when they are asked for
    with ThreadPoolExecutor(min(jobs, len(files))) as pool:
        for _ in pool.map(lambda file: file.sha256, files):
            pass


def combined_digest(digests: Mapping[str, str]) -> str:
    """Return the only digest, or that of the lines `name NUL digest`, sorted."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class MappedPart:
    """A part of memory that shows a file. start, end: addresses; offset: of the start, in it.

    A page that the file has lost, by being cut short, kills the process that touches it, as may one
    that a network file system fails to bring. A read by position fails with an error.
    """

    start: int
    end: int
    offset: int

    @classmethod
    def at(cls, address: int, inode: int) -> MappedPart | None:
        """Return the mapping of a file at an address; None: there is another, none, or no telling.

        See proc_pid_maps(5): start-end, permissions, offset, device, inode, path.
        """
        with suppress(OSError):
            for line in _MAPS.read_text("utf-8", "surrogateescape").splitlines():
                places, _, offset, _, owner, *_ = line.split(maxsplit=5)
                start, end = (int(place, 16) for place in places.split("-"))
                if start <= address < end:
                    return cls(start, end, int(offset, 16)) if int(owner) == inode else None
        return None

    def place(self, address: int, length: int) -> int | None:
        """Return where bytes in memory are in the file; None for any that are not mapped here."""
        inside = self.start <= address and address + length <= self.end
        return address - self.start + self.offset if inside else None


def forget_pages(address: int, length: int) -> None:
    """Give back the memory of pages of a mapped file; they are read again when touched.

    Only for mappings that nobody writes to. Where the system cannot, nothing happens.
    """
    start = address - address % mmap.PAGESIZE
    with suppress(AttributeError, OSError):
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(address + length - start), _DONTNEED)


def _read_ahead(descriptor: int, start: int, length: int) -> None:
    """Let the system begin to read bytes that are wanted soon; where it cannot, nothing happens."""
    with suppress(AttributeError, OSError):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)


def start_writing_back(descriptor: int, start: int, length: int) -> None:
    """Let the system begin to bring written bytes to the disk; where it cannot, nothing happens."""
    with suppress(AttributeError, OSError):
        begin = ctypes.CDLL(None).sync_file_range
        begin(descriptor, ctypes.c_int64(start), ctypes.c_int64(length), _WRITE)


def require_file(path: Path) -> None:
    """Raise unless the path leads to a regular file; a pipe cannot be read twice."""
    if "\0" in str(path):
        raise missing(Path(str(path).replace("\0", "\\0")))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise read_failure(error, path) from error
    if not stat.S_ISREG(mode):
        raise CheckpointError("not a regular file", where=str(path))
