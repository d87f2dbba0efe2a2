"""How work tells whoever waits for it how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are (0: unknown)."""


def with_name(progress: Progress, name: str) -> Progress:
    """Return the progress of one piece of work among several, its name before what is done."""
    return lambda what, done, total: progress(f"{name}: {what}", done, total)


def silent(what: str, done: int, total: int) -> None:
    """Report to nobody."""
