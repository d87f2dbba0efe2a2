"""The process: its streams and its heap, made fit for use at the start and settled at the end."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from io import TextIOWrapper

PIPE_CLOSED = 141


MACHINE = 4


def prepare_streams() -> None:
    """Stand in for streams that were closed, and let file names pass that are not Unicode."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - open for the whole process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def say(text: str) -> None:
    """Print a line on stderr, if that is still there."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def settle_stdout(code: int) -> int:
    """Return the exit code once stdout has taken everything, or that of its failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED
    except OSError as error:
        say(f"error: stdout: {error.strerror}")
        code = MACHINE
    else:
        return code
    # What is left in the buffer goes nowhere, and the interpreter does not complain about it.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    return code


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt(3)


LARGE, ROOM = 1 << 20, 16 << 20


def prepare_heap() -> None:
    """Have glibc return every freed block of 1 MB or more to the system at once.

    By default it raises that limit to 32 MB as blocks are freed, and keeps what lies below:
    matching two models of 44 MB then peaked at 1127 MB instead of 589. At the end of the heap 16 MB
    stay: mixing models range by range took seven times as long where every range was given back and
    cleared again. Smaller blocks lie in one arena for all threads, and MKL keeps no buffers of its
    own: two ResNet-50 then peak at 595 MB instead of 630, in the same time. Large tensors are asked
    for in pages of 2 MB where Linux has them: each new block is cleared page by page, and two
    models of 1 B parameters within 6 GB took 97 instead of 64 seconds of the system's. Threads, MKL
    and torch ask only once, when torch is imported. With other allocators nothing happens.
    """
    os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_TRIM_THRESHOLD, ROOM)
        library.mallopt(M_ARENA_MAX, 1)
