"""Files and folders that appear whole or not at all.

What is written goes into a hidden neighbour first, reaches the disk, and then takes the
target's name in one step. After any failure the target is as it was and nothing is left over.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rebasin_cli.checkpoint.failures import writing
from rebasin_cli.checkpoint.remote.remote_path import RemotePath, named_path
from rebasin_cli.checkpoint.remote.upload import new_upload
from rebasin_cli.checkpoint.writing.disk import start_writing_back
from rebasin_cli.checkpoint.writing.neighbours import (
    hidden_name,
    new_neighbour_file,
    new_neighbour_folder,
)
from rebasin_cli.errors import UsageError

_AT_FDCWD = -100
_SMALL = 1 << 16  # bytes below which writes are gathered
_BLOCK = 1 << 20  # bytes that are written and digested at once
_BEHIND = 4  # blocks that the digest may lag behind
_BEGIN = 8 << 20  # bytes after which they are sent to the disk, which fsync would wait for
_RENAME_EXCHANGE = 2


class Sink:
    """A file being written: counts and digests what passes through, and keeps small writes back.

    The digest is taken in a thread, a few blocks behind: it takes as long as writing does.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self._digest = hashlib.sha256()
        self._digesting = ThreadPoolExecutor(1)
        self._behind: deque[Future[None]] = deque()
        self._small = bytearray()
        self._written = self._begun = 0  # bytes; those that are on their way to the disk
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """The digest of what was written before the last `settle`."""
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Write everything; nobody may change it before `settle`.

        Raises MachineError where the disk refuses.
        """
        if len(self._small) + len(data) < _SMALL:
            self._small += data
        else:
            self._put_small()
            blocks = memoryview(data)
            for start in range(0, len(data), _BLOCK):
                self._put(blocks[start : start + _BLOCK])
        self.bytes += len(data)
        return len(data)

    def settle(self) -> None:
        """Return when everything is in the file and in the digest."""
        self._put_small()
        while self._behind:
            self._behind.popleft().result()

    def close(self) -> None:
        """End the thread; what it has not come to is dropped."""
        self._digesting.shutdown(cancel_futures=True)

    def _put_small(self) -> None:
        block, self._small = self._small, bytearray()
        self._put(memoryview(block))

    def _put(self, block: memoryview) -> None:
        if not block:
            return
        self._behind.append(self._digesting.submit(self._digest.update, block))
        self._written += len(block)
        while block:
            with writing(self._path):
                block = block[os.write(self._descriptor, block) :]
        while len(self._behind) > _BEHIND:
            self._behind.popleft().result()
        if self._written - self._begun >= _BEGIN:
            start_writing_back(self._descriptor, self._begun, self._written - self._begun)
            self._begun = self._written


@contextmanager
def new_file(target: Path, *, overwrite: bool, where: Path | None = None) -> Iterator[Sink]:
    """Open a sink whose content becomes `target` when the block ends without an exception.

    A link is followed, and a URL is uploaded to. The mode is that of the file replaced, else what
    the umask leaves. where: what errors call it, of a file in a hidden folder.
    Raises UsageError if the target exists and may not be overwritten, MachineError for a disk
    that is full or read-only.
    """
    real = writable_path(target)
    if isinstance(real, RemotePath):
        with (
            new_upload(real, overwrite=overwrite) as local,
            new_file(local, overwrite=False) as sink,
        ):
            yield sink
        return
    mode, where = _replaced_mode(real, overwrite=overwrite), where or target
    with new_neighbour_file(real, where=where) as (temporary, descriptor):
        sink = Sink(descriptor, where)
        try:
            yield sink
            sink.settle()
            with writing(where):
                if mode is not None:
                    os.fchmod(descriptor, mode)
                os.fsync(descriptor)
                _publish_file(temporary, real, overwrite=overwrite)
        finally:
            sink.close()
    sync_folder(real.parent)


@contextmanager
def new_folder(
    target: Path, *, overwrite: bool, keep: Callable[[Path, Path], None]
) -> Iterator[Path]:
    """Make a hidden folder that becomes `target` when the block ends without an exception.

    keep(old, new): called before an existing folder is replaced, to save what it has to.
    """
    real = writable_path(target)
    if isinstance(real, RemotePath):
        with (
            new_upload(real, overwrite=overwrite) as local,
            new_folder(local, overwrite=False, keep=keep) as folder,
        ):
            yield folder
        return
    replaced = _replaced_folder(real, overwrite=overwrite)
    with new_neighbour_folder(real, where=target) as temporary:
        yield temporary
        with writing(target):
            if replaced:
                keep(real, temporary)
                shutil.copymode(real, temporary)
            sync_folder(temporary)
            _publish_folder(temporary, real, replaced=replaced)
    sync_folder(real.parent)


def writable_path(target: Path) -> Path:
    """Return the path to write: what a link points to, in a folder that exists; or a URL."""
    named = named_path(target)
    if isinstance(named, RemotePath):
        return named
    real = Path(os.path.realpath(named))
    with writing(target):
        exists = real.parent.is_dir()
    if not exists:
        raise UsageError(
            f"no such folder: {target.parent}", where=str(target), hint="create it first"
        )
    return real


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk; a file system that cannot is not an error."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def exists_error(target: Path) -> UsageError:
    """Return the refusal to overwrite."""
    return UsageError("already exists", where=str(target), hint="--force replaces it")


def _replaced_mode(real: Path, *, overwrite: bool) -> int | None:
    """Return the mode of the file about to be replaced, None if there is none."""
    if not os.path.lexists(real):
        return None
    mode = real.stat().st_mode
    # Replacing /dev/null or a pipe by a file would break more than this program.
    if not stat.S_ISREG(mode):
        raise UsageError("exists and is not a regular file", where=str(real))
    if not overwrite:
        raise exists_error(real)
    return stat.S_IMODE(mode)


def _replaced_folder(real: Path, *, overwrite: bool) -> bool:
    """Tell whether there is a folder to replace; an empty one is not worth a refusal."""
    if not os.path.lexists(real):
        return False
    if not real.is_dir():
        raise UsageError("exists and is not a folder", where=str(real))
    with writing(real):
        empty = not any(real.iterdir())
    if not overwrite and not empty:
        raise exists_error(real)
    return not empty


def _publish_file(temporary: Path, real: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(real)
        return
    # A link, unlike a rename, never takes a name that another program has made meanwhile.
    try:
        os.link(temporary, real)
    except FileExistsError as error:
        raise exists_error(real) from error
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(real):
            raise exists_error(real) from error
        temporary.replace(real)


def _publish_folder(temporary: Path, real: Path, *, replaced: bool) -> None:
    """Give the folder its name; afterwards `temporary` is the old one, or gone."""
    if not replaced:
        try:
            temporary.rename(real)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise exists_error(real) from error
        return
    if not _exchange(temporary, real):
        _exchange_in_steps(temporary, real)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False if this system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    code = renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    number = ctypes.get_errno()
    if code and number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(other))
    return not code


def _exchange_in_steps(new: Path, real: Path) -> None:
    # the only copy of the old one if the process is killed here: nothing clears such a name away
    aside = hidden_name(real, f"{secrets.token_hex(8)}.old")
    real.rename(aside)
    try:
        new.rename(real)
    except BaseException:
        aside.rename(real)
        raise
    aside.rename(new)
