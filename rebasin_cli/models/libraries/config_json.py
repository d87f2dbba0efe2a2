"""The config.json of a folder, as the libraries write it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebasin_cli.errors import NOWHERE, UsageError, refusal_by_system
from rebasin_cli.json_text import read_json

SCHEMES = ("hf", "diffusers")


def read_config(folder: str) -> Mapping[str, Any]:
    """Return the content of a folder's config.json, or of that file. Raises UsageError.

    MachineError if it may not be read.
    """
    path = Path(folder)
    path = path if path.suffix == ".json" else path / "config.json"
    try:
        config = read_json(path.read_text("utf-8"))
    except OSError as error:
        if error.errno not in NOWHERE:
            raise refusal_by_system(error, str(path)) from error
        raise UsageError(f"{path} cannot be read", detail=str(error.strerror)) from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON", detail=str(error)) from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds no configuration")
    return config
