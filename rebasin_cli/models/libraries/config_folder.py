"""`hf:FOLDER` and `diffusers:FOLDER`: a folder whose config.json says what the model is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebasin_cli.errors import NOWHERE, UsageError, refused
from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.transformers.transformers_models import transformers_subject

SCHEMES = ("hf", "diffusers")


def folder_subject(folder: str, arguments: Mapping[str, object]) -> Subject:
    """Return the model of a folder's config.json (or of that file), through the library it is for.

    Arguments replace fields of the configuration.
    """
    config = read_config(folder)
    if "_class_name" in config:
        return diffusers_subject(f"diffusers:{folder}", {**config, **arguments})
    return transformers_subject(f"hf:{folder}", {**config, **arguments})


def read_config(folder: str) -> Mapping[str, Any]:
    """Return the content of a folder's config.json, or of that file. Raises UsageError.

    MachineError if it may not be read.
    """
    path = Path(folder)
    path = path if path.suffix == ".json" else path / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        if error.errno not in NOWHERE:
            raise refused(error, str(path)) from error
        raise UsageError(f"{path} cannot be read", detail=str(error.strerror)) from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON", detail=str(error)) from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds no configuration")
    return config
