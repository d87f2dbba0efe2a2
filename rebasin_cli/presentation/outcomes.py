"""Outcomes that many commands have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.errors import RebasinError
from rebasin_cli.presentation.events import error_fields
from rebasin_cli.presentation.presenter import Presenter, Presenters

PARTIAL = 5  # exit code: some items failed


@dataclass(frozen=True)
class LeftAsIs:
    """A file that was there already: the reference of an alignment, or one of --no-clobber."""

    path: Path
    why: str


@dataclass(frozen=True)
class Failed:
    """An item that could not be done; the others go on."""

    path: Path
    error: RebasinError


@dataclass(frozen=True)
class Reused:
    """A result that an earlier run has finished. fields: of its event then. text: for stdout."""

    path: Path
    fields: Mapping[str, Any]
    text: str


def _left_summary(outcome: LeftAsIs) -> str:
    there = outcome.why == "exists"
    return f"{outcome.path} is there already: nothing was done for it" if there else ""


COMMON: Presenters = {
    LeftAsIs: Presenter(
        fields=lambda outcome: {"path": str(outcome.path), "status": outcome.why},
        text=lambda outcome: str(outcome.path),
        summary=_left_summary,
    ),
    Reused: Presenter(
        fields=lambda outcome: {**outcome.fields, "reused": True},
        text=lambda outcome: outcome.text,
        summary=lambda outcome: f"{outcome.path} was finished by an earlier run",
    ),
    Failed: Presenter(
        fields=lambda outcome: {"item": str(outcome.path), **error_fields(outcome.error)},
        text=lambda outcome: "",
        summary=lambda outcome: f"error: {outcome.error}",
        code=lambda outcome: PARTIAL,
        event="error",
    ),
}
