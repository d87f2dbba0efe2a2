"""That a picture was written, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.pictures.drawing import Drawn
from rebasin_cli.presentation.presenter import Presenter, Presenters


def _fields(outcome: Drawn) -> dict[str, Any]:
    """Return what the event of a picture says. Not `path`: that is a model's, for who reads it."""
    written = outcome.written
    return {"plot": str(written.path), "bytes": written.bytes, "sha256": written.sha256}


DRAWING: Presenters = {
    Drawn: Presenter(
        fields=_fields,
        text=lambda outcome: "",
        summary=lambda outcome: f"drawn: {outcome.written.path}",
    )
}
