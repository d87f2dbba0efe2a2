"""Packages that hold models; none of them is needed by the rest of the program."""

from __future__ import annotations

import importlib
from typing import Any

from rebasin_cli.errors import MachineError
from rebasin_cli.models.trial_run import quiet


def optional(package: str, module: str | None = None) -> Any:
    """Import a package that may be absent, or a module of it; MachineError says how to get it."""
    try:
        with quiet():
            importlib.import_module(package)
            return importlib.import_module(module or package)
    except ImportError as error:
        raise MachineError(
            f"this needs the package {package}, which cannot be imported",
            detail=str(error),
            hint=f"pip install {package}",
        ) from error


def version_of(*packages: str) -> str:
    """Return names and versions of packages, for a cache key; torch is always among them."""
    modules = [importlib.import_module(name) for name in ("torch", *packages)]
    return " ".join(f"{module.__name__}={module.__version__}" for module in modules)
