"""Hidden neighbours of a target, where it is made: locked meanwhile, cleared away if left over.

The system drops a lock with its process, also where that was killed: what is not locked is left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from rebasin_cli.errors import refusal_by_system

# Longer names than this are cut, so that a hidden name stays within the usual 255 bytes.
_NAME_BYTES = 100
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def hidden_name(real: Path, ending: str) -> Path:
    """Return a hidden name in the same folder that begins with the target's."""
    start = real.name.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "ignore")
    return real.with_name(f".{start}.{ending}")


@contextmanager
def new_neighbour_file(real: Path, *, where: Path) -> Iterator[tuple[Path, int]]:
    """Make a file beside a target; give it and its descriptor, which locks it.

    What a killed process left under its name is removed first. At the end the file is removed, if
    it still has the name, and the descriptor closed. Raises MachineError that names `where`.
    """
    with _new(real, where, lambda path: os.open(path, _CREATE, 0o666)) as made:
        yield made


@contextmanager
def new_neighbour_folder(real: Path, *, where: Path) -> Iterator[Path]:
    """Make a folder beside a target, as `new_neighbour_file`; what then has its name is removed."""

    def make(path: Path) -> int:
        path.mkdir()
        return os.open(path, _LOOK)

    with _new(real, where, make) as (path, _):
        yield path


@contextmanager
def _new(real: Path, where: Path, make: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    for path in (hidden_name(real, f"{number}.tmp") for number in count()):
        _remove_left_over(path)
        try:
            descriptor = make(path)
        except FileExistsError:
            continue  # another process is at it
        except OSError as error:
            raise refusal_by_system(error, str(where), what="cannot write") from error
        except BaseException:  # a signal, which often waited for the file
            _remove_left_over(path)
            raise
        # From here a signal at any moment finds the way to what removes the file again.
        try:
            with suppress(OSError):  # a file system without locks: what is left over stays
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is(path, descriptor):  # else taken for left over before it was locked
                yield path, descriptor
                return
        finally:
            try:
                _clear(path, descriptor)
            except BaseException:  # once more: a signal often comes as the target appears
                _clear(path, descriptor)
                raise
            finally:
                os.close(descriptor)  # and not before, since that unlocks the name
    raise AssertionError("numbers do not end")


def _clear(path: Path, descriptor: int) -> None:
    """Remove what is left over at the end: the file itself, or the folder that was exchanged.

    Where the system does not let go of it, it stays for a later run: the failure that led here, or
    the target that is written, is what is told.
    """
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif _is(path, descriptor):
            path.unlink()


def _remove_left_over(path: Path) -> None:
    """Remove a file or folder unless a process has it locked, or it cannot be locked."""
    with suppress(OSError), _looking_at(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is(path, descriptor):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextmanager
def _looking_at(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _LOOK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    """Return whether a name still is that of an open file or folder."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False
