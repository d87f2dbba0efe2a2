"""The specs that come with the package, and specs in files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from rebasin_cli.errors import (
    NOWHERE,
    Problem,
    RebasinError,
    SpecError,
    UsageError,
    refusal_by_system,
    suggest,
    suggest_file,
)
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.language.yaml_reader import MAX_CHARACTERS

_ENDINGS = (".yaml", ".yml")


def bundled_names() -> tuple[str, ...]:
    """Return the names of the bundled specs, sorted."""
    return _names(_folder())


def load_spec(name_or_path: str) -> Spec:
    """Return a bundled spec by its name, or the spec in a file.

    A bundled name comes first; `./NAME` is always a file. Raises UsageError if there is neither,
    SpecError if the file is not a spec, MachineError if it may not be read.
    """
    source, path = _found(name_or_path)
    return _parsed(_read(path), source)


def spec_text(name_or_path: str) -> str:
    """Return the text of a spec, comments and all; raises as `load_spec` does."""
    return _read(_found(name_or_path)[1])


@cache
def _parsed(text: str, source: str) -> Spec:
    """Return the spec in a text; choosing among the bundled asks for each of them often."""
    return parse(text, source=source)


def _found(name_or_path: str) -> tuple[str, Path]:
    """Return what to call a spec in messages, and its file."""
    names = bundled_names()
    if name_or_path in names:
        path = _folder() / f"{name_or_path}.yaml"
        return path.name, path
    path = Path(name_or_path)
    if path.exists() or name_or_path.endswith(_ENDINGS):
        return name_or_path, path
    hint = suggest(name_or_path, names) or f"bundled specs: {', '.join(names)}"
    raise UsageError(f"there is no bundled spec {name_or_path!r} and no such file", hint=hint)


@cache
def _folder() -> Path:
    """Return the folder of the installed package, or of the source checkout."""
    package = Path(__file__).parents[1]
    installed = package / "specs"
    return installed if installed.is_dir() else package.parent / "specs"


@cache
def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_CHARACTERS + 4)
        return content.decode("utf-8")
    except OSError as error:
        # Not a SpecError: the check cannot be made, which is no verdict on the spec.
        if error.errno not in NOWHERE:
            raise refusal_by_system(error, str(path), what="the spec cannot be read") from error
        what = f"the spec cannot be read: {error.strerror or error}"
        raise RebasinError(Problem(what, where=str(path), hint=suggest_file(path))) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        what = "the spec is not UTF-8 text"
        raise SpecError(Problem(what, where=f"{path}:{line}:{column}")) from error
