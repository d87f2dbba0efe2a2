"""Ctrl-C and SIGTERM: exit code 130 or 143 and one word, whenever they come."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

WORDS: Mapping[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
FIRST_CODE = 128  # of a process that a signal ended; its number is added


class StoppedError(KeyboardInterrupt):
    """A signal arrived: unwind, clean up, leave.

    No plain KeyboardInterrupt: once that has passed through a text that is executed, as dataclasses
    are made, the interpreter ends itself by SIGINT, whatever its exit code was to be.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.word = WORDS[number]
        self.exit_code = FIRST_CODE + number


def leave_on_signals() -> None:
    """Let a signal end the process at once: nothing has begun yet, or all is cleaned up.

    An exception would end it too, but not with its code: torch is loaded by C++ that aborts.
    """
    for number in WORDS:
        signal.signal(number, _leave)


def unwind_on_signals() -> None:
    """Let a signal raise StoppedError: there may be something to clean up."""
    for number in WORDS:
        signal.signal(number, _unwind)


def ignore_signals() -> None:
    """Let no signal end the process: nothing is left to do but to take the interpreter apart.

    That gives its handlers up first, and would end by the signal, not with the exit code.
    """
    for number in WORDS:
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    try:
        os.write(2, f"{WORDS[number]}\n".encode())
    finally:
        os._exit(FIRST_CODE + number)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    raise StoppedError(number)
