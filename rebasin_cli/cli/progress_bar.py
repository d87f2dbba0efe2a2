"""What a terminal shows beside the text: a bar while work goes on, and a table of groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

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
            yield lambda what, done, total: bars.update(
                task, description=what, completed=done, total=total or None
            )

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed."""
        if self._bars is None or not self._bars.live.is_started:
            yield
            return
        self._bars.stop()
        yield
        self._bars.start()
