"""Tables as text."""

from __future__ import annotations

import shutil
import sys
from io import StringIO

from rich.console import Console
from rich.table import Column, Table

WIDE = 200  # columns where stdout is not a terminal


def table(*columns: str | Column) -> Table:
    """Return a table without rows, as all commands draw theirs; a heading is a column of text."""
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def number_columns(*headings: str, no_wrap: bool = False) -> list[Column]:
    """Return columns of numbers, which stand at the right."""
    return [Column(heading, justify="right", no_wrap=no_wrap) for heading in headings]


def render(shown: Table) -> str:
    """Return a table as stdout shows it: as wide as the terminal, or wide where there is none."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else WIDE
    console = Console(file=StringIO(), width=width, force_terminal=terminal, highlight=False)
    with console.capture() as capture:
        console.print(shown)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
