"""Find calls that a model accepts by running it, on `meta` where it lives there."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from rebasin_cli.models.subject import Example
from rebasin_cli.tensors.device_memory import on_device
from rebasin_cli.tensors.trees import map_leaves

CPU = torch.device("cpu")
_GROWTH = 3.0  # the second example has at most so many times the positions: it is run for real


@dataclass(frozen=True)
class InputFamily:
    """Inputs of one kind: how to make an example, and the shapes, without batch, to try."""

    make: Callable[[tuple[int, ...]], Example]
    shapes: Sequence[tuple[int, ...]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep away what models' code prints, warns and logs.

    Standard output belongs to results, and most warnings at building concern training.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def as_script(name: str) -> Iterator[None]:
    """Give code of the user's the command line of a script without arguments.

    Training scripts parse theirs as they are imported, and would read ours.
    """
    words, sys.argv = sys.argv, [name]
    try:
        yield
    finally:
        sys.argv = words


def moved_to(device: torch.device, value: Any) -> Any:
    """Return the value with all tensors inside its tuples, lists and mappings on the device."""
    return map_leaves(value, torch.Tensor, lambda tensor: on_device(tensor, device))


def failure_on(model: nn.Module, example: Example) -> BaseException | None:
    """Run a model on an example, moved to its device, and return what it raises, if anything."""
    device = next((tensor.device for tensor in model.parameters()), CPU)
    try:
        with torch.no_grad(), quiet(), device:
            model(*moved_to(device, example.args), **moved_to(device, dict(example.kwargs)))
    except (Exception, SystemExit) as error:  # the code of any model runs here
        return error
    return None


def _accepted(model: nn.Module, candidates: Iterable[Example]) -> Example | None:
    """Return the first of the candidates that the model accepts, or None."""
    return next((example for example in candidates if failure_on(model, example) is None), None)


def two_sizes(model: nn.Module, families: Iterable[InputFamily]) -> tuple[Example, ...]:
    """Return two accepted examples of one family, of batch 2 and 3 and if possible of two shapes.

    One example if the model insists on its batch, none if it accepts no first one.
    """
    for family in families:
        for place, shape in enumerate(family.shapes):
            first = family.make((2, *shape))
            if failure_on(model, first) is None:
                rest = (*family.shapes[place + 1 :], *family.shapes[:place], shape)
                others = [other for other in rest if prod(other) <= _GROWTH * prod(shape)]
                second = _accepted(model, (family.make((3, *other)) for other in others))
                return (first,) if second is None else (first, second)
    return ()


def normal_noise(shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Return standard normal float32 on the CPU; the same seed gives the same tensor."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device="cpu")


def random_ids(
    shape: Sequence[int], below: int, *, avoid: Iterable[int | None] = ()
) -> torch.Tensor:
    """Return random int64 indices in 0..below-1 on the CPU, without those to avoid if others exist.

    Padding and end-of-text ids change what a model computes: masks, pooling positions.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    banned = {number for number in avoid if number is not None}
    # A vocabulary of 250,000 need not be listed: what stands among its first ids is enough.
    allowed = [number for number in range(min(below, 1000)) if number not in banned]
    table = torch.tensor(allowed or [0], device="cpu")
    places = torch.randint(len(table), tuple(shape), generator=generator, device="cpu")
    return table[places]
