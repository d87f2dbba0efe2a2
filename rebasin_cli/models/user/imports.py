"""Objects that a user names: `file.py:Class`, `pkg.mod:Class`, `file.py:function`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rebasin_cli.errors import MachineError, UsageError, refusal_by_system, suggest, suggest_file
from rebasin_cli.models.trial_run import as_script, quiet
from rebasin_cli.models.user.construction import cause_of
from rebasin_cli.models.user.uncached_imports import (
    StandaloneSource,
    folder_importable,
    forget_changed,
)
from rebasin_cli.wording import listing

FORMS = (
    "write file.py:Class, pkg.mod:Class, torchvision:NAME, timm:NAME, hf:FOLDER or diffusers:FOLDER"
)


def named_object(target: str) -> Any:
    """Return what `file.py:name` or `pkg.mod:name` names; the name may have dots.

    Raise UsageError if the file, the module or the name does not exist or the file does not run,
    MachineError if it needs a package that is absent.
    """
    forget_changed()
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise UsageError(
            f"{target!r} names nothing in a file", hint="write file.py:NAME or pkg.mod:NAME"
        )
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key in vars(found) if not key.startswith("_")]
            hint = suggest(part, known) or f"it has {listing(known)}"
            raise UsageError(f"{place} has no {name!r}", hint=hint)
        found = getattr(found, part)
    return found


def import_folder(target: str) -> Path:
    """Return the folder that a target's own imports are looked up in."""
    place = target.rpartition(":")[0]
    return Path(place).resolve().parent if place.endswith(".py") else Path.cwd()


def fingerprint(target: str, found: Any) -> str:
    """Return the SHA-256 of the source files around a user's object, for a cache key.

    All Python files beside it count, because a model is often spread over them.
    """
    path = _source(found) or _source(type(found)) or Path()  # instances have no source
    digest = hashlib.sha256(target.encode())
    for neighbour in sorted({path, *path.parent.glob("*.py")}):
        if neighbour.is_file():
            digest.update(_content(neighbour))
    return digest.hexdigest()


def _source(found: Any) -> Path | None:
    """Return the file of an object, None for one that was typed at a prompt or made by code."""
    with contextlib.suppress(TypeError, OSError):
        return Path(inspect.getsourcefile(found) or "")
    return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refusal_by_system(error, str(path)) from error


def _file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own, once: who names it twice means the same classes."""
    if not path.is_file():
        raise UsageError(f"no such file: {path}", hint=suggest_file(path))
    place = path.resolve()
    name = f"{place.stem}_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _content(path)  # importing it would tell less of why it cannot be read
    spec = ModuleSpec(name, loader := StandaloneSource(name, str(place)), origin=str(place))
    spec.has_location = True
    module = module_from_spec(spec)
    # Dataclasses and pickle look up their module by name while its body runs.
    sys.modules[name] = module
    try:
        _run(str(path), lambda: loader.exec_module(module), place.parent)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module(name: str) -> ModuleType:
    """Import a module that is installed or lies in the working folder."""
    _run(name, lambda: importlib.import_module(name), Path.cwd())
    return sys.modules[name]


def _run(name: str, action: Callable[[], object], folder: Path) -> None:
    """Run an import; say in a sentence what went wrong."""
    try:
        with quiet(), as_script(name), folder_importable(folder):
            action()
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise UsageError(f"no module named {missing!r}", hint=FORMS) from error
        raise MachineError(
            f"{name} needs the module {missing!r}, which is not installed", detail=cause_of(error)
        ) from error
    except (Exception, SystemExit) as error:  # a user's file can do anything
        raise UsageError(
            f"{name} cannot be imported",
            detail=cause_of(error),
            hint="what it does as a script belongs under `if __name__ == '__main__':`"
            if isinstance(error, SystemExit)
            else "",
        ) from error
