"""The plan of `rebasin spec check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.spec.check.command import CheckRequest
from rebasin_cli.errors import RebasinError
from rebasin_cli.files.inputs import open_models


@dataclass(frozen=True)
class CheckPlan:
    """A spec to check, against a model if there is one."""

    spec: str
    model: Checkpoint | None
    request: CheckRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {"command": "spec check", "spec": self.spec}


def plan_check(request: CheckRequest) -> CheckPlan:
    """Return what will be checked; of the model only the header is read."""
    opened = open_models([request.model], request.selection) if request.model else [None]
    return CheckPlan(request.spec, opened[0], request)


@dataclass(frozen=True)
class GroupSeen:
    """A group of a bound spec and the tensors it occurs in (the first of each stack)."""

    name: str
    size: int
    parents: tuple[str, ...]
    fixed: bool
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """Whether a spec is valid, and fits a model if there is one. error: why not."""

    spec: str
    model: Path | None
    entries: int
    groups: tuple[GroupSeen, ...]
    untouched: tuple[str, ...]
    error: RebasinError | None
