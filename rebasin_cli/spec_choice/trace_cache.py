"""Traces that were made before, one JSON file each, under $XDG_CACHE_HOME/rebasin.

Nothing depends on them: what cannot be read is traced again, what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rebasin_cli.checkpoint.writing.writer import write_text
from rebasin_cli.errors import RebasinError
from rebasin_cli.json_text import read_json
from rebasin_cli.models.user.uncached_imports import loaded_sources, same_sources
from rebasin_cli.spec_choice.trace_format import TracedModel, dump_model, load_model


def find(key: str) -> TracedModel | None:
    """Return the traced model kept under a key, None if there is none that can be read.

    Nor is there one if a file that it came from is another now: what a model imports, perhaps only
    as it runs, is known once it has been traced.
    """
    try:
        text = _file(key).read_text("utf-8")
        return load_model(text) if same_sources(read_json(text)["sources"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RebasinError):
        return None  # absent, cut off, or of another make


def keep(key: str, model: TracedModel) -> None:
    """Keep a traced model under a key; a folder that cannot be written is no error."""
    path = _file(key)
    with contextlib.suppress(OSError, RebasinError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, dump_model(model, sources=loaded_sources()), overwrite=True)


def _file(key: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or ""
    # The specification of XDG says that a relative path there is to be ignored.
    base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    return base / "rebasin" / f"{key}.json"
