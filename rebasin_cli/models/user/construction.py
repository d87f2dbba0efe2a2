"""Call a constructor that somebody else wrote, and say in a sentence what it did not like."""

from __future__ import annotations

import inspect
import os
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from rebasin_cli.errors import MachineError, UsageError, suggest
from rebasin_cli.models.trial_run import as_script, quiet

KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_OTHERS = (sysconfig.get_path("stdlib"), Path(torch.__file__).parent, Path(__file__).parents[2])
_PACKAGES = tuple(f"{folder}{os.sep}" for folder in _OTHERS)
OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_arguments(
    name: str, builder: Callable[..., object], arguments: Mapping[str, object]
) -> None:
    """Raise UsageError for arguments that a constructor lacks or does not know."""
    try:
        parameters = inspect.signature(builder).parameters
    except ValueError:  # classes written in C have no signature
        return
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in OPEN
        and key not in arguments
    ]
    if missing:
        raise UsageError(
            f"{name} cannot be built without {', '.join(missing)}",
            hint=f"name a function that builds it, or --model-args '{{\"{missing[0]}\": ...}}'",
        )
    accepted = [key for key, parameter in parameters.items() if parameter.kind in KEYWORD]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    unknown = [key for key in arguments if key not in accepted]
    if unknown:
        raise UsageError(
            f"{name} does not take {', '.join(unknown)}",
            detail=f"it takes {', '.join(accepted) or 'no arguments'}",
            hint=suggest(unknown[0], accepted),
        )


def construct(name: str, builder: Callable[[], object], *, hint: str = "") -> nn.Module:
    """Return what a constructor makes, in eval mode; UsageError with the cause if it raises.

    hint: what to do then. The cause stays attached: on `meta` some constructors fail that work
    elsewhere.
    """
    try:
        with quiet(), as_script(name):
            model = builder()
    except MemoryError as error:
        raise MachineError(f"{name} does not fit into memory") from error
    except (Exception, SystemExit) as error:  # anything can happen in there
        raise UsageError(f"{name} cannot be built", detail=cause_of(error), hint=hint) from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise UsageError(f"{name} gives a {kind}, not a torch.nn.Module")
    plain = getattr(model, "_orig_mod", None)  # of torch.compile: the same without the compiling
    return (plain if isinstance(plain, nn.Module) else model).eval()


def cause_of(error: BaseException) -> str:
    """Return an exception as one line, with the file and line that raised it.

    Where that is inside torch or Python itself, those of the code that called it.
    """
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if not frame.filename.startswith(_PACKAGES)] or every
    first = str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text
