"""Which model is traced, and how."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import typer

from rebasin_cli.json_text import read_json
from rebasin_cli.options.parameters import flags_in
from rebasin_cli.options.values import in_tuple, parse_names
from rebasin_cli.progress import Progress, silent

PANEL = "Traced model"
_option = flags_in(PANEL)


def parse_arguments(text: str | None, *, flag: str = "--model-args") -> dict[str, object]:
    """Return the arguments of a constructor that a JSON object names. flag: where it was given."""
    if text is None:
        return {}
    try:
        value = read_json(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{flag} {text!r} is not JSON such as '{{\"width\": 8}}', both kinds of quotes "
            f"included: {error}"
        ) from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f'{flag} {text!r} is not a JSON object, as {{"width": 8}}')
    return value


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    sizes = _sizes(text)
    if sizes is None:
        raise typer.BadParameter(f"--input-shape {text!r} is not a shape such as 1,3,224,224")
    return sizes


def _sizes(text: str) -> tuple[int, ...] | None:
    """Return the numbers of a text such as `1,3,224,224`, None if it is none."""
    sizes = text.replace("x", ",").split(",")
    shape = all(size.strip().isdecimal() and int(size) for size in sizes)
    return tuple(map(int, sizes)) if shape else None


def _inputs(words: list[str] | None) -> tuple[str, ...]:
    """Return the functions of --input. Raises BadParameter for a shape, which is another option."""
    for word in words or ():
        if _sizes(word):
            raise typer.BadParameter(f"--input {word!r} is a shape: --input-shape {word}")
    return in_tuple(words)


def _cache(unwanted: bool) -> bool:
    """Return whether results are kept. REBASIN_NO_CACHE is --no-cache."""
    return not (unwanted or os.environ.get("REBASIN_NO_CACHE"))


_COMPANIONS = {
    "arguments": "--model-args",
    "shape": "--input-shape",
    "inputs": "--input",
    "outputs": "--outputs",
    "free_outputs": "--free-outputs",
    "buffers": "--permute-buffer",
}
COMPANIONS = (*_COMPANIONS, "cache")  # the flags of a command whose target is an argument


@dataclass(frozen=True)
class Tracing:
    """Which model is traced and how: --model and its companions, the arguments of `spec trace`.

    target: None: none, unless no bundled spec fits. arguments: of its constructor. shape, inputs:
    what it is fed (`file.py:function`, all of them recorded); neither: rows of the first batch of
    `data`, else what the library or a guess says. outputs, free_outputs, buffers: see `Choices`.
    trust: also use what was not validated. cache: look up and keep results. progress: told when
    a model is traced.
    """

    target: str | None = _option(
        "--model",
        metavar="TARGET",
        help="Trace this model for the spec: file.py:Class, pkg.mod:Class, torchvision:NAME, "
        "timm:NAME, hf:FOLDER or diffusers:FOLDER.",
    )
    arguments: Mapping[str, object] = _option(
        "--model-args",
        kind=str | None,
        parse=parse_arguments,
        metavar="JSON",
        help="Its arguments, as '{\"num_classes\": 10}'.",
    )
    shape: tuple[int, ...] | None = _option(
        "--input-shape",
        kind=str | None,
        parse=_shape,
        metavar="N,...",
        help="Its input, as 1,3,224,224.",
    )
    inputs: tuple[str, ...] = _option(
        "--input",
        kind=list[str] | None,
        parse=_inputs,
        metavar="FILE.py:FUNCTION",
        help="A function that returns its input; repeatable, all count.",
    )
    outputs: tuple[str, ...] = _option(
        "--outputs",
        kind=list[str] | None,
        parse=parse_names,
        metavar="NAME",
        help="An output that must stay; repeatable.",
    )
    free_outputs: bool = _option(
        "--free-outputs", default=False, help="Units of the outputs may change places: a backbone."
    )
    buffers: tuple[str, ...] = _option(
        "--permute-buffer",
        kind=list[str] | None,
        parse=parse_names,
        metavar="GLOB",
        help="Buffers that move like parameters; repeatable.",
    )
    cache: bool = _option(
        "--no-cache", default=False, parse=_cache, help="Trace again, and keep no result."
    )
    trust: bool = _option("--trust", default=False, help="Use a trace that was not validated.")
    data: str | None = None
    progress: Progress = field(default=silent, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle it without whom it tells, who is not where it is unpickled."""
        return {**vars(self), "progress": silent}

    def unless(self, spec: str | None) -> Tracing:
        """Return what says how to align in a command that runs the model: --spec, else --model."""
        return self if spec is None else replace(self, target=None)

    @staticmethod
    def check_flags(given: Mapping[str, Any]) -> None:
        """Raise for flags that say how a model is traced where none is."""
        if given.get("target", "") is not None:
            return
        for name, companion in _COMPANIONS.items():
            if given.get(name):
                raise typer.BadParameter(
                    f"{companion} says how a model is traced, and needs --model TARGET"
                )


class TracingRequest(Protocol):
    """What a command is asked for, a dataclass, if it may trace a model."""

    @property
    def tracing(self) -> Tracing:
        """Which model, and how."""


TracedT = TypeVar("TracedT", bound=TracingRequest)
PlanT = TypeVar("PlanT")


def tracing_plan(
    plan: Callable[[TracedT], PlanT], request: TracedT, *, data: str | None = None
) -> Callable[[Progress], PlanT]:
    """Return what makes a plan of a request, and tells somebody if a model is traced for it.

    data: what yields batches; a model is traced on the first of them if nothing else is said.
    """
    copy: Any = replace  # of any dataclass
    tracing = replace(request.tracing, data=data)
    return lambda told: plan(copy(request, tracing=replace(tracing, progress=told)))
