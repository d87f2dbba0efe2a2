"""The golden texts, by the names of their files under texts/."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.golden.cases import CASES
from tests.golden.hunks import hunks
from tests.golden.transcript import transcript
from tests.golden.tree import helps

TEXTS = Path(__file__).parent / "texts"
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
    return "\n".join([f"{path.name}: - golden, + today", *hunks(old, new)]) if old != new else ""
