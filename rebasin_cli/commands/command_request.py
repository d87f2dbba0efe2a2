"""What every command that makes something of models is asked."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.options.computing import Computing
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing


@dataclass(frozen=True, kw_only=True)
class CommandRequest:
    """Which tensors, written where and how, computed with what, traced from which model."""

    selection: Selection = Selection()
    output: Output = Output()
    computing: Computing = Computing()
    tracing: Tracing = Tracing()
