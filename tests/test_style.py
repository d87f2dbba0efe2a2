"""The walls of the house style: see CONTRIBUTING.md, Size."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rebasin_cli"
SOURCES = sorted(path for top in ("rebasin_cli", "tests") for path in (ROOT / top).rglob("*.py"))
FILE_LINES = 350
FUNCTION_LINES = 60
PUBLIC_NAMES = 8
TO_BE_GIVEN = 5  # parameters without a default
BY_POSITION = 2  # parameters with a default
# More names than that, because they are one thing: the kinds of an error, of a term of the spec
# language and of the tracer; a rule for each operator, found by its table; what a file is made of
# that runs without the package.
ONE_THING = (
    "errors.py",
    "spec/language/model.py",
    "tracer/axes/axis_terms.py",
    "tracer/rules/arithmetic.py",
    "tracer/rules/indexing.py",
    "tracer/rules/shapes.py",
    "tracer/rules/spatial.py",
    "commands/merge/preserve_first/joined_model.py",
)
# Their parameters are the options of the command line and of the library, or written into a file.
OPTIONS = ("command.py", "joined_model.py")


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


def names_hit(source: str) -> list[str]:
    """Return the public functions and classes of a module if there are too many."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {n.name: n for n in ast.parse(source).body if isinstance(n, kinds)}  # overloads: one
    public = [name for name in names if not name.startswith("_")]
    return public if len(public) > PUBLIC_NAMES else []


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_module_has_few_public_names(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() not in ONE_THING:
        assert names_hit(path.read_text("utf-8")) == []


def test_a_module_with_many_names_is_found() -> None:
    assert names_hit("".join(f"def f{n}(): ...\n" for n in range(PUBLIC_NAMES))) == []
    assert len(names_hit("".join(f"class C{n}: ...\n" for n in range(PUBLIC_NAMES + 1)))) == 9


def parameters_hit(source: str) -> Iterator[str]:
    """Yield a sentence for each function that asks for too much, or for it by position."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = [a for a in node.args.args if a.arg not in ("self", "cls")]
            first_default = len(given) - len(node.args.defaults)
            named = sum(default is None for default in node.args.kw_defaults)
            if first_default + named > TO_BE_GIVEN:
                yield f"{node.name} has to be given {first_default + named} things"
    for node in public_functions(ast.parse(source)):
        given = [a for a in node.args.args if a.arg not in ("self", "cls")]
        first_default = len(given) - len(node.args.defaults)
        late = given[max(first_default, BY_POSITION) :]
        flags = [a for a in given if a.annotation and ast.unparse(a.annotation) == "bool"]
        for argument in dict.fromkeys((*late, *flags)):
            yield f"{node.name} takes {argument.arg} by position"


def public_functions(scope: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a module, and the methods of its classes, that others may call."""
    for node in scope.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from public_functions(node)
            else:
                yield node


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_functions_ask_for_few_things(path: Path) -> None:
    if path.name not in OPTIONS:
        assert list(parameters_hit(path.read_text("utf-8"))) == []


def test_a_function_that_asks_for_much_is_found() -> None:
    assert list(parameters_hit("def f(a, b, *, c, d, e, g=1): ...")) == []
    assert list(parameters_hit("def f(a, b, *, c, d, e, g): ...")) == ["f has to be given 6 things"]
    assert list(parameters_hit("def f(a, b, c=1): ...")) == ["f takes c by position"]
    assert list(parameters_hit("def f(a: bool): ...")) == ["f takes a by position"]
    assert list(parameters_hit("def _f(a: bool, b, c=1): ...")) == []
