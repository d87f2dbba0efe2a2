"""A page of HTML that needs no other file and no script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape

# A picture is drawn on white, and stays on white paper in the dark: its colours mean something.
# On a narrow screen it is not made smaller than its letters allow, but moved sideways.
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --rule: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --rule: #444; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal;
        width: max-content; }
th, td { padding: 0.15rem 0.8rem; text-align: right; border-bottom: 1px solid var(--rule); }
th { vertical-align: bottom; min-width: 4rem; max-width: 8rem; }
td { white-space: nowrap; }
.wide { overflow-x: auto; }
.picture { background: #fff; border-radius: 4px; }
.picture svg { display: block; width: 100%; height: auto; margin: 0 auto; }
"""
SMALLEST = 0.75  # of its own size, of a picture: letters of 9 points stay 9 pixels high


def document(title: str, parts: Iterable[str]) -> str:
    """Return a page of parts that are HTML; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def picture(svg: str, name: str) -> str:
    """Return an SVG file as part of a page. name: says what it is to who cannot see it; HTML."""
    width = float((re.search(r'width="([\d.]+)pt"', svg) or ["", "480"])[1]) * 4 / 3
    drawn = svg[svg.index("<svg") :].replace(
        "<svg",
        f'<svg role="img" aria-label="{name}" '
        f'style="min-width: {SMALLEST * width:.0f}px; max-width: {width:.0f}px"',
        1,
    )
    return f'<div class="wide picture">{drawn}</div>'


def paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    """Yield plain sentences as paragraphs."""
    return (f"<p>{escape(sentence)}</p>" for sentence in sentences)


def table(rows: Sequence[Iterable[str]]) -> str:
    """Return a table of plain text, moved sideways if it is wide; the first row is its head."""
    head, *body = rows
    lines = [_row(head, "th"), *(_row(row, "td") for row in body)]
    return "\n".join(['<div class="wide"><table>', *lines, "</table></div>"])


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
