"""The options that say which model is traced, and how."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rebasin_cli.options.extend import extended, options_in

if TYPE_CHECKING:
    from rebasin_cli.options.groups import Tracing

PANEL = "Traced model"
_option = options_in(PANEL)

Model = Annotated[
    str | None,
    _option(
        "--model",
        metavar="TARGET",
        help="Trace this model for the spec: file.py:Class, pkg.mod:Class, torchvision:NAME, "
        "timm:NAME, hf:FOLDER or diffusers:FOLDER.",
    ),
]
ModelArgs = Annotated[
    str | None,
    _option("--model-args", metavar="JSON", help="Its arguments, as '{\"num_classes\": 10}'."),
]
InputShape = Annotated[
    str | None, _option("--input-shape", metavar="N,...", help="Its input, as 1,3,224,224.")
]
Inputs = Annotated[
    list[str] | None,
    _option(
        "--input",
        metavar="FILE.py:FUNCTION",
        help="A function that returns its input; repeatable, all count.",
    ),
]
Outputs = Annotated[
    list[str] | None,
    _option("--outputs", metavar="NAME", help="An output that must stay; repeatable."),
]
FreeOutputs = Annotated[
    bool, _option("--free-outputs", help="Units of the outputs may change places: a backbone.")
]
PermuteBuffer = Annotated[
    list[str] | None,
    _option(
        "--permute-buffer", metavar="GLOB", help="Buffers that move like parameters; repeatable."
    ),
]
Trust = Annotated[bool, _option("--trust", help="Use a trace that was not validated.")]
NoCache = Annotated[bool, _option("--no-cache", help="Trace again, and keep no result.")]


_OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "model_args": (ModelArgs, None),
    "input_shape": (InputShape, None),
    "inputs": (Inputs, None),
    "outputs": (Outputs, None),
    "free_outputs": (FreeOutputs, False),
    "permute_buffer": (PermuteBuffer, None),
    "no_cache": (NoCache, False),
}


def with_inputs(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has the options about tracing; it reads them from its context."""
    return extended(command, _OPTIONS)


def with_model(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has --model and its companions, to be read from its context."""
    return extended(command, {"target": (Model, None), **_OPTIONS, "trust": (Trust, False)})


def tracing_from(params: Mapping[str, Any]) -> Tracing:
    """Return what a command's parameters say about tracing. REBASIN_NO_CACHE is --no-cache."""
    from rebasin_cli.options.groups import Tracing
    from rebasin_cli.progress import silent

    target = params.get("target")
    if target is None:
        _refuse_companions(params)
    return Tracing(
        target=target,
        arguments=_arguments(params.get("model_args")),
        shape=_shape(params.get("input_shape")),
        inputs=tuple(params.get("inputs") or ()),
        data=params.get("data"),
        outputs=_names(params.get("outputs")),
        free_outputs=params.get("free_outputs", False),
        buffers=_names(params.get("permute_buffer")),
        trust=params.get("trust", False),
        cache=not (params.get("no_cache", False) or os.environ.get("REBASIN_NO_CACHE")),
        progress=params.get("progress", silent),
    )


def _refuse_companions(params: Mapping[str, Any]) -> None:
    """Raise for options that say how a model is traced where none is."""
    said = ("model_args", "input_shape", "inputs", "outputs", "free_outputs", "permute_buffer")
    for name in said:
        if params.get(name):
            flag = "--input" if name == "inputs" else f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{flag} says how a model is traced, and needs --model TARGET")


def _arguments(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--model-args {text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f'--model-args {text!r} is not a JSON object, as {{"width": 8}}')
    return value


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    sizes = text.replace("x", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise typer.BadParameter(f"--input-shape {text!r} is not a shape such as 1,3,224,224")
    return tuple(map(int, sizes))


def _names(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return names that were given one by one or with commas between them."""
    return tuple(name for text in texts or () for name in text.split(",") if name)
