"""That a picture was written, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.pictures.drawing import Drawn
from rebasin_cli.presentation.presenter import Presenter, Presenters


def _fields(outcome: Drawn) -> dict[str, Any]:
    """Return the fields of a picture's event. No `path`: readers take that for a model."""
    written = outcome.written
    return {"plot": str(written.path), "bytes": written.bytes, "sha256": written.sha256}


DRAWING: Presenters = {
    Drawn: Presenter(
        fields=_fields,
        text=lambda outcome: "",
        summary=lambda outcome: f"drawn: {outcome.written.path}",
    )
}
