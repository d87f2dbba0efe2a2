"""Where the code of a model asks for numbers that it computed: others may run something else."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.record import Call, Value

_PASSED_BY = tuple(str(Path(file).parent) for file in (torch.__file__, __file__))


def code_line() -> str:
    """Return the line of the model's own code that runs now, `net.py:12`."""
    lines = ((f.f_code.co_filename, line) for f, line in traceback.walk_stack(None))
    own = ((file, line) for file, line in lines if not file.startswith(_PASSED_BY))
    return next((f"{Path(file).name}:{line}" for file, line in own), "its code")


def asks_for_number(call: Call) -> bool:
    """Return whether a program gets to know a number; of integers most are lengths and indices."""
    integer = call.operands and not (
        call.operands[0].dtype.is_floating_point or call.operands[0].dtype == torch.bool
    )
    return facts(call.name).steers and not integer


def deciding_lines(
    calls: Iterable[Call], parameters: Iterable[Value], lines: Mapping[int, str]
) -> tuple[str, ...]:
    """Return the lines that ask for what follows from weights, or from inputs that are no indices.

    lines: by the index of the call.
    """
    weighed, found = set(parameters), dict[str, None]()
    for call in calls:
        if any(v.root in weighed or _signal(v.root) for v in call.operands):
            weighed.update(value.root for value in (*call.made, *call.written))
            if call.index in lines:
                found[lines[call.index]] = None
    return tuple(found)


def _signal(value: Value) -> bool:
    return value.source == "input" and value.dtype.is_floating_point
