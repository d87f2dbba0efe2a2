"""The walls of the house style: see CONTRIBUTING.md, Size."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for top in ("rebasin_cli", "tests") for path in (ROOT / top).rglob("*.py"))
FILE_LINES = 350
FUNCTION_LINES = 60


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Count a function's lines that are neither blank, comment nor docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    prose = range(docstring.lineno, (docstring.end_lineno or 0) + 1) if docstring else range(0)
    span = range(function.lineno, (function.end_lineno or 0) + 1)
    texts = (lines[number - 1].strip() for number in span if number not in prose)
    return sum(bool(text) and not text.startswith("#") for text in texts)


def walls_hit(source: str) -> Iterator[str]:
    """Yield a sentence for the file if it is too long, and for each function that is."""
    lines = source.splitlines()
    if len(lines) > FILE_LINES:
        yield f"{len(lines)} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            count = code_lines(node, lines)
            if count > FUNCTION_LINES:
                yield f"{node.name} has {count} code lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    assert list(walls_hit(path.read_text("utf-8"))) == []


def test_a_long_function_is_found_and_its_prose_is_free() -> None:
    prose = ['    """One line."""', "    # why", ""]
    body = ["    x = 1"] * (FUNCTION_LINES - 1)
    assert list(walls_hit("\n".join(["def f():", *prose, *body]))) == []
    longer = "\n".join(["def f():", *prose, *body, "    y = 2"])
    assert list(walls_hit(longer)) == ["f has 61 code lines"]


def test_a_long_file_is_found() -> None:
    assert list(walls_hit("x = 1\n" * (FILE_LINES + 1))) == ["351 lines"]
