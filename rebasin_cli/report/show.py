"""Outcomes to the two streams: results on stdout, talk on stderr, a bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rebasin_cli.plan.outcome import (
    Aligned,
    Checked,
    Compared,
    Failed,
    Merged,
    Outcome,
    Verified,
)
from rebasin_cli.plan.renormalize_outcome import Renormalized
from rebasin_cli.progress import Progress
from rebasin_cli.report.events import event_line, result_line
from rebasin_cli.report.renormalize import print_layers
from rebasin_cli.report.rest import rest_lines
from rebasin_cli.report.sentences import result_text, summary_text
from rebasin_cli.report.terminal import Bar, print_groups


@dataclass
class Screen:
    """Where outcomes are shown, and how much of them."""

    json: bool
    quiet: bool
    verbose: int
    _results: int = 0
    _bar: Bar = field(default_factory=Bar)
    _said: set[str] = field(default_factory=set)

    @contextmanager
    def progress(self, wanted: bool) -> Iterator[Progress]:
        """Yield a progress function; it draws only on a terminal, and only if that is wanted."""
        with self._bar.drawn(wanted and not self.quiet) as progress:
            yield progress

    def warn(self, command: str, text: str) -> None:
        """Say what is odd about the inputs of a command that goes on."""
        with self._bar.hidden():
            if self.json:
                print(event_line("warning", command, {"message": text}), flush=True)
            if not self.quiet:
                print(f"warning: {text}", file=sys.stderr, flush=True)

    def show(self, outcome: Outcome) -> int:
        """Show one outcome and return its exit code: 1 for a no, 5 for a failed item."""
        with self._bar.hidden():
            line = result_line(outcome) if self.json else result_text(outcome)
            if line:
                print(line, flush=True)
                self._results += 1
            self._talk(outcome)
        match outcome:
            case Failed():
                return 5
            case Verified(holds=False):
                return 1
            case Compared(changes=changes):
                return 1 if changes else 0
            case Checked(error=error):
                return 1 if error else 0
        return 0

    def _talk(self, outcome: Outcome) -> None:
        text = summary_text(outcome)
        if text and (not self.quiet or isinstance(outcome, Failed)):
            print(text, file=sys.stderr, flush=True)
        for line in rest_lines(outcome):
            if not self.quiet and line not in self._said:
                self._said.add(line)
                print(line, file=sys.stderr, flush=True)
        if self.verbose and not self.quiet and isinstance(outcome, Aligned | Verified):
            found = outcome.diagnosis if isinstance(outcome, Aligned) else None
            print_groups(outcome.matching, found)
        if self.verbose and not self.quiet and isinstance(outcome, Renormalized):
            print_layers(outcome.report)
        if self.verbose and not self.quiet and isinstance(outcome, Merged) and outcome.report:
            print_layers(outcome.report)

    def finish(self, command: str, failed: int, seconds: float) -> None:
        """Say that the work is over; programs are told how it went."""
        if self.json:
            fields = {"results": self._results - failed, "failed": failed, "seconds": seconds}
            print(event_line("summary", command, fields), flush=True)
