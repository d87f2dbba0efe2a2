"""`hf:FOLDER` and `diffusers:FOLDER`: a folder whose config.json says what the model is."""

from __future__ import annotations

from collections.abc import Mapping

from rebasin_cli.models.libraries.config_json import read_config
from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.transformers.transformers_models import transformers_subject


def folder_subject(folder: str, arguments: Mapping[str, object]) -> Subject:
    """Return the model of a folder's config.json (or of that file), through the library it is for.

    Arguments replace fields of the configuration.
    """
    config = read_config(folder)
    if "_class_name" in config:
        return diffusers_subject(f"diffusers:{folder}", {**config, **arguments})
    return transformers_subject(f"hf:{folder}", {**config, **arguments})
