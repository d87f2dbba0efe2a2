"""How work tells whoever waits for it how far it is, and what to look out for."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are (0: unknown)."""


Warn = Callable[[str], None]
"""Called with a sentence that whoever asked for the work should know, although it goes on."""


def silent(what: str, done: int, total: int) -> None:
    """Report to nobody."""


def unheard(text: str) -> None:
    """Warn nobody."""
