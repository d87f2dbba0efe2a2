"""What the tracer is given: a model that can be built, and calls of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class Example:
    """One call of a model; its tensors are real and on the CPU, wherever the model is."""

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A model to trace: how to build it and what to feed it.

    build: works under `torch.device("meta")` where the class does, otherwise raises what the class
        raises; without it the parameters are random. A model that the caller made himself is
        copied, and stays on its device. The model is in eval mode.
    examples: of different sizes, the one to record first; at least two where the model allows it.
    small: the same architecture with few layers and tiny widths, where one can be made.
    version: what decides the model: versions of libraries, sources and arguments, as text.
    """

    name: str
    build: Callable[[], nn.Module]
    examples: Callable[[nn.Module], tuple[Example, ...]]
    small: Subject | None = None
    version: str = ""


def without_memory(subject: Subject) -> nn.Module | None:
    """Return the model on the meta device, or None if its constructor looks at numbers."""
    try:
        with torch.device("meta"):
            return subject.build()
    except Exception:  # the code of any class runs here, and fails on meta in its own way
        return None


def bare_model(subject: Subject) -> nn.Module:
    """Return the model on the meta device, or with memory where it cannot be built there."""
    model = without_memory(subject)
    return subject.build() if model is None else model
