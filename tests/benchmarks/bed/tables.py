"""Plain tables for the terminal, which are Markdown too."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[str]


def table(heads: Row, rows: Sequence[Row]) -> str:
    """Return a Markdown table: the first column to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in (heads, rule, *rows))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text; nothing for one that was not measured."""
    return "" if value is None else f"{value:.{digits}f}"


def _line(row: Row, widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return f"| {' | '.join(cells)} |"
