"""Record as many calls of a model as it takes to see the members of its lists at work.

Where numbers decide which of them run (experts, exits), one input shows a few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, count, islice

import torch
from torch import Tensor, nn

from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.capture import Arguments, attempt, record
from rebasin_cli.tracer.recording.idle_members import idle_members
from rebasin_cli.tracer.recording.record import Record, Value

TRIES = 8  # calls in a row that reach nothing new
CALLS = 32  # in all: each is a run of the model, and what stays idle follows the others


def record_reaching(
    model: nn.Module, examples: Sequence[Arguments], recorded: int
) -> tuple[Record, list[Arguments], list[Arguments]]:
    """Return the record of some calls, these, and all the calls that the model is known to take.

    Those recorded are the first examples and, where numbers decide what runs, what reaches more:
    the other examples, and the same with other numbers in them.
    """
    found = record(model, examples[:recorded])
    idle = set(idle_members(found, _read(found))) if _chooses(found) else set()
    if not idle:
        return found, list(examples[:recorded]), list(examples)
    more: list[Arguments] = []
    left = TRIES
    for call in islice(chain(examples[recorded:], _redrawn(examples)), CALLS):
        new = idle & _names_read(model, call)
        left = TRIES if new else left - 1
        idle -= new
        more += [call] if new else []
        if not idle or not left:
            break
    if not more:
        return found, list(examples[:recorded]), list(examples)
    drawn = [call for call in more if not any(call is example for example in examples)]
    calls = [*examples[:recorded], *more]
    return record(model, calls), calls, [*examples, *drawn]


def _read(found: Record) -> set[Value]:
    return {operand.root for call in found.calls for operand in call.operands}


def _chooses(found: Record) -> bool:
    """Return whether numbers that a run made decide which operators it consists of."""
    asking = (
        call
        for call in found.calls
        if facts(call.name).steers or torch.Tag.dynamic_output_shape in call.op.tags
    )
    return any(not value.root.source for call in asking for value in call.operands)


def _names_read(model: nn.Module, call: Arguments) -> set[str]:
    """Return the tensors that a call reads, none if the model does not take it."""
    found = attempt(lambda: record(model, [call]))
    if found is None:  # it may look for an order in its input
        return set()
    used = _read(found)
    return {name for name, value in found.tensors.items() if value in used}


def _redrawn(examples: Sequence[Arguments]) -> Iterator[Arguments]:
    """Yield calls as the examples are, with other numbers of the same range."""
    for seed in count():
        generator = torch.Generator().manual_seed(seed)
        redraw = partial(_other_numbers, generator=generator)
        args, kwargs = map_leaves(examples[seed % len(examples)], Tensor, redraw)
        yield args, kwargs


def _other_numbers(tensor: Tensor, generator: torch.Generator) -> Tensor:
    plain = tensor.layout == torch.strided and not tensor.is_complex()
    if not plain or tensor.numel() < 2 or tensor.dtype == torch.bool:
        return tensor
    low, high = tensor.min(), tensor.max()
    if not bool((high - low).isfinite()):  # a mask that is added
        return tensor
    if tensor.is_floating_point():
        return low + (high - low) * torch.rand(tensor.shape, generator=generator).to(tensor)
    drawn = torch.randint(int(low), int(high) + 1, tuple(tensor.shape), generator=generator)
    return drawn.to(tensor)
