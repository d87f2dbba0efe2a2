"""Outcomes to the two streams: results on stdout, talk on stderr, a bar on a terminal."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from rebasin_cli.errors import DetailWarning, RebasinWarning, ShortageWarning
from rebasin_cli.options.display import Display
from rebasin_cli.presentation.events import event_line
from rebasin_cli.presentation.outcomes import COMMON, Failed
from rebasin_cli.presentation.presenter import CHOICE, Presenter, Presenters
from rebasin_cli.presentation.tables import WIDE
from rebasin_cli.presentation.written import file_fields, rest_lines
from rebasin_cli.progress import Progress, silent


class ProgressBar:
    """A progress bar on stderr, drawn only on a terminal and out of the way of other text."""

    def __init__(self) -> None:
        self._bars: Bars | None = None

    @contextmanager
    def drawn(self, *, wanted: bool) -> Iterator[Progress]:
        """Yield a progress function; it says nothing unless a bar is wanted and can be drawn."""
        console = Console(stderr=True)
        if not (wanted and console.is_terminal and not console.is_dumb_terminal):
            yield silent
            return
        # rich would send our stdout to stderr if it were allowed to redirect it
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        task = self._bars.add_task("starting", total=None)
        with self._bars as bars:
            yield partial(_tell, bars, bars.tasks[task])

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed."""
        if self._bars is None or not self._bars.live.is_started:
            yield
            return
        self._bars.stop()
        yield
        self._bars.start()


def _tell(bars: Bars, shown: Task, what: str, done: int, total: int) -> None:
    """Show how far the work is. What another step had in all, and its pace, are not those of it."""
    if what != shown.description:
        began = shown.start_time
        bars.reset(shown.id)
        shown.start_time, shown.total = began, None
    bars.update(shown.id, description=what, completed=done, total=total or None)


@dataclass
class Screen:
    """Where the outcomes of a command are shown, and how much of them."""

    command: str
    presenters: Presenters
    display: Display = field(default_factory=Display)
    _results: int = 0
    _bar: ProgressBar = field(default_factory=ProgressBar)
    _said: set[str] = field(default_factory=set)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Yield a progress function; it draws only on a terminal, and only if that is wanted."""
        with self._bar.drawn(
            wanted=not (self.display.no_progress or self.display.quiet)
        ) as progress:
            yield progress

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Show what is odd about the inputs of a command that goes on, each time it is met."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", RebasinWarning)
            warnings.simplefilter("once", ShortageWarning)
            if not self.display.verbose:
                warnings.simplefilter("ignore", DetailWarning)
            others = warnings.showwarning

            def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
                if isinstance(message, RebasinWarning):
                    self.warn(message.text)
                else:
                    others(message, category, *where, **more)

            warnings.showwarning = show
            yield

    def warn(self, text: str) -> None:
        """Show one warning."""
        with self._bar.hidden():
            if self.display.json:
                print(event_line("warning", self.command, {"message": text}), flush=True)
            self._say(f"warning: {text}")

    def show(self, outcome: object) -> int:
        """Show one outcome and return the exit code that it amounts to."""
        presenter: Presenter[Any] = {**COMMON, **self.presenters}[type(outcome)]
        with self._bar.hidden():
            line = (
                self._event(presenter, outcome) if self.display.json else _text(presenter, outcome)
            )
            if line:
                print(line, flush=True)
                self._results += presenter.event != CHOICE
            self._talk(presenter, outcome)
        return presenter.code(outcome)

    def _event(self, presenter: Presenter[Any], outcome: object) -> str:
        fields = presenter.fields(outcome)
        if fields is None:
            return ""
        file = file_fields(presenter.written(outcome))
        return event_line(presenter.event, self.command, {**file, **fields})

    def _talk(self, presenter: Presenter[Any], outcome: object) -> None:
        summary = presenter.summary(outcome)
        if summary:
            self._say(summary, always=isinstance(outcome, Failed))
        for line in rest_lines(presenter.written(outcome)):
            if line not in self._said:
                self._said.add(line)
                self._say(line)
        if self.display.verbose and not self.display.quiet:
            _print_details(presenter.details(outcome))

    def _say(self, text: str, *, always: bool = False) -> None:
        if always or not self.display.quiet:
            print(text, file=sys.stderr, flush=True)

    def finish(self, failed: int, seconds: float) -> None:
        """Say that the work is over; programs are told how it went."""
        if self.display.json:
            fields = {"results": self._results - failed, "failed": failed, "seconds": seconds}
            print(event_line("summary", self.command, fields), flush=True)


def _text(presenter: Presenter[Any], outcome: object) -> str:
    if presenter.text is not None:
        return presenter.text(outcome)
    written = presenter.written(outcome)
    return str(written.path) if written else ""


def _print_details(details: Sequence[RenderableType]) -> None:
    width = None if sys.stderr.isatty() else WIDE
    console = Console(stderr=True, highlight=False, width=width)
    for detail in details:
        console.print(detail)
