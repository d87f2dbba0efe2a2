"""A TARGET of the command line, turned into a subject."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rebasin_cli.errors import UsageError
from rebasin_cli.models.libraries.config_json import read_config
from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.models.libraries.timm_models import timm_subject
from rebasin_cli.models.libraries.torchvision_models import torchvision_subject
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.transformers.transformers_models import transformers_subject
from rebasin_cli.models.user.given_inputs import examples_of_function, examples_of_shape
from rebasin_cli.models.user.imports import FORMS
from rebasin_cli.models.user.user_model import own_subject
from rebasin_cli.wording import listing


def folder_subject(folder: str, arguments: Mapping[str, object]) -> Subject:
    """Return the model of a folder's config.json (or of that file), through the library it is for.

    Arguments replace fields of the configuration.
    """
    config = read_config(folder)
    if "_class_name" in config:
        return diffusers_subject(f"diffusers:{folder}", {**config, **arguments})
    return transformers_subject(f"hf:{folder}", {**config, **arguments})


SCHEMES: Mapping[str, Callable[[str, Mapping[str, object]], Subject]] = {
    "torchvision": torchvision_subject,
    "timm": timm_subject,
    "hf": folder_subject,
    "diffusers": folder_subject,
}


def subject_of_target(
    target: str,
    *,
    model_args: Mapping[str, object] | None = None,
    input_shape: tuple[int, ...] | None = None,
    input_function: str | None = None,
) -> Subject:
    """Return the model that a TARGET names; nothing is built yet.

    Its example inputs are those of `input_shape` or `input_function`, else the library's, else
    guessed. Raises UsageError for a model that does not exist or does not take the arguments,
    MachineError for a library that is not installed.
    """
    if input_shape is not None and input_function is not None:
        raise UsageError("--input-shape and --input exclude each other")
    found = _named(target, model_args or {})
    if input_shape is not None:
        examples, given = examples_of_shape(input_shape), f"input {input_shape}"
    elif input_function is not None:
        examples, given = examples_of_function(input_function), f"input {input_function}"
    else:
        return found
    return dataclasses.replace(found, examples=examples, version=f"{found.version} {given}")


def _classes_hint(path: Path) -> str:
    """Return how the classes in a file are named; the file is read and not run."""
    with suppress(OSError, SyntaxError, ValueError):
        body = ast.parse(path.read_bytes()).body if path.suffix == ".py" else []
        names = [f"{path}:{item.name}" for item in body if isinstance(item, ast.ClassDef)]
        return f"name a class of it: {listing(names)}" if names else ""
    return ""


def _named(target: str, arguments: Mapping[str, object]) -> Subject:
    """Return the subject of a target with its own inputs."""
    scheme, colon, rest = target.partition(":")
    if (Path(target) / "config.json").is_file():
        return folder_subject(target, arguments)
    if not colon or not rest:
        raise UsageError(f"{target!r} names no model", hint=_classes_hint(Path(target)) or FORMS)
    if scheme in SCHEMES:
        return SCHEMES[scheme](rest, arguments)
    return own_subject(target, arguments)
