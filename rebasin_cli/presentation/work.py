"""What a command line asks for, as a value that is carried out at the top."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rebasin_cli.options.display import Display
from rebasin_cli.progress import Progress

if TYPE_CHECKING:
    from rebasin_cli.presentation.presenter import Presenters


class Plan(Protocol):
    """A plan that can be printed."""

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""


@dataclass(frozen=True)
class Work:
    """A command to carry out: make a plan, run it, show each outcome as it comes.

    command: its name, as `spec check`. plan: may take minutes where a model is traced for it, so
    it is told whom to tell.
    """

    command: str
    display: Display
    plan: Callable[[Progress], Plan]
    run: Callable[[Any, Progress], Iterator[Any]]
    presenters: Presenters


@dataclass(frozen=True)
class PrintedText:
    """Lines to print, each with its own end: of commands that only look something up."""

    command: str
    lines: Callable[[], Iterable[str]]
    json: bool = False
