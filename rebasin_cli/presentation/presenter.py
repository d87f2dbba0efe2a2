"""How the outcomes of a command are shown: a value for each kind, made by the command's report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.console import RenderableType

if TYPE_CHECKING:
    from rebasin_cli.checkpoint.writing.writer import Written


OutcomeT = TypeVar("OutcomeT")


CHOICE = "choice"  # the event of what was decided on the way, which is no result


@dataclass(frozen=True)
class Presenter(Generic[OutcomeT]):
    """How one kind of outcome is shown.

    fields: of its event, those of its file come before; None: it has no event. text: what stdout
    gets; None: the path of its file. summary: what a person wants to know, on stderr; empty:
    stdout says it all. details: what -v adds. written: its file, if there is one. code: the exit
    code that it amounts to. event: the kind of its event.
    """

    fields: Callable[[OutcomeT], Mapping[str, Any] | None]
    text: Callable[[OutcomeT], str] | None = None
    summary: Callable[[OutcomeT], str] = lambda outcome: ""
    details: Callable[[OutcomeT], Sequence[RenderableType]] = lambda outcome: ()
    written: Callable[[OutcomeT], Written | None] = lambda outcome: None
    code: Callable[[OutcomeT], int] = lambda outcome: 0
    event: str = "result"


Presenters = Mapping[type[Any], Presenter[Any]]
