"""What `rebasin apply` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.commands.command_request import CommandRequest


@dataclass(frozen=True)
class ApplyRequest(CommandRequest):
    """What a permutation file is applied to: a model, or what belongs to one.

    base: the model that it belongs to, where the permutation file does not tell. keep_unknown:
    leave what follows nothing that is known.
    """

    permutation: Path
    model: Path
    inverse: bool = False
    base: Path | None = None
    keep_unknown: bool = False
