"""What is shown, to whom, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.options.parameters import flags_in

_shown = flags_in("Output")


@dataclass(frozen=True)
class Display:
    """What is shown of a command's work.

    dry_run: only the plan. json: results as events for programs. verbose: how often -v was given.
    """

    verbose: int = _shown(
        "--verbose",
        "-v",
        default=0,
        count=True,
        metavar="",
        show_default=False,
        help="More: a table of all groups.",
    )
    dry_run: bool = _shown(
        "--dry-run", "-n", default=False, help="Print the plan as JSON; do nothing."
    )
    json: bool = _shown("--json", default=False, help="Results as NDJSON events on stdout.")
    quiet: bool = _shown("--quiet", "-q", default=False, help="Nothing on stderr but errors.")
    no_progress: bool = _shown("--no-progress", default=False, help="No progress bar.")

    @property
    def figures(self) -> bool:
        """Whether units are compared one by one."""
        return self.margins or self.json

    @property
    def margins(self) -> bool:
        """Whether it is shown how sure the assignment of each unit is."""
        return bool(self.verbose)


SHOWING = ("dry_run", "json", "quiet", "no_progress")
