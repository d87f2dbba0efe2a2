"""Tables as text."""

from __future__ import annotations

import shutil
import sys
from io import StringIO

from rich.console import Console
from rich.table import Table

WIDE = 200  # columns where stdout is not a terminal


def rendered(table: Table) -> str:
    """Return a table as stdout shows it: as wide as the terminal, or wide where there is none."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else WIDE
    console = Console(file=StringIO(), width=width, force_terminal=terminal, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
