"""The golden texts, by the names of their files under texts/."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from tests.golden.cases import CASES
from tests.golden.transcript import transcript
from tests.golden.tree import helps

TEXTS = Path(__file__).parent / "texts"
_CONTEXT, _SHOWN = 60, 300  # characters
HELP, RUNS = TEXTS / "help", TEXTS / "runs"


def golden_texts() -> Iterator[tuple[Path, str]]:
    """Yield the file of every golden text, and what the program says today."""
    yield from ((help_file(name), text) for name, text in helps().items())
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            yield run_file(name), transcript(name, Path(folder).resolve())


def help_file(name: str) -> Path:
    """Return where the help of a command is kept."""
    return HELP / f"{name}.json"


def run_file(name: str) -> Path:
    """Return where the transcript of a case is kept."""
    return RUNS / f"{name}.txt"


def difference(path: Path, text: str) -> str:
    """Return how a text differs from the golden one, empty if it does not."""
    old = path.read_text("utf-8").splitlines() if path.exists() else []
    new = text.splitlines()
    return "\n".join([f"{path.name}: - golden, + today", *_hunks(old, new)]) if old != new else ""


def _hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield what differs, below the command line that it belongs to."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind != "equal":
            yield from [line for line in old[:start] if line.startswith("$ ")][-1:]
            yield from _hunk(old[start:end], new[first:last])


def _hunk(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield lines side by side from shortly before they differ: events are long."""
    for one, other in zip_longest(old, new, fillvalue=""):
        letters = enumerate(zip(one, other, strict=False))
        start = max(0, next((k for k, (x, y) in letters if x != y), 0) - _CONTEXT)
        shown = slice(start, start + _SHOWN)
        yield from (f"{sign} {line[shown]}" for sign, line in (("-", one), ("+", other)) if line)
