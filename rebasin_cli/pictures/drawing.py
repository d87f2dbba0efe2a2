"""Writing pictures: PNG, SVG, or a page of HTML that needs no other file.

matplotlib is an extra, and slow to import: it is looked for only when a picture is wanted.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.writing.publish import new_file
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.errors import MachineError, UsageError
from rebasin_cli.files.places import OutputPlace, plan_place
from rebasin_cli.options.output import Output

PICTURES = (".png", ".svg", ".html")


@dataclass(frozen=True)
class Drawn:
    """A picture of what a command found that was written."""

    written: Written


def plan_drawing(path: Path, output: Output, inputs: Sequence[Path]) -> OutputPlace:
    """Return where a picture goes. Raises UsageError if it may not, or for another ending."""
    if path.suffix.lower() not in PICTURES:
        raise UsageError(
            f"--plot {path}: no picture has this ending", hint=f"one of {', '.join(PICTURES)}"
        )
    return plan_place(path, output, others=inputs)


def require_matplotlib() -> None:
    """Raise MachineError if no picture can be drawn here."""
    matplotlib("figure")


def write_drawing(figure: Any, place: OutputPlace, paged: Callable[[str], str]) -> Written:
    """Write a figure, whole or not at all; the same figure gives the same bytes.

    paged: from an SVG to the page around it, for .html.
    """
    ending = place.path.suffix.lower()
    data = _bytes(figure, "png" if ending == ".png" else "svg")
    if ending == ".html":
        data = paged(data.decode()).encode()
    with new_file(place.path, overwrite=place.overwrite) as sink:
        sink.write(data)
    return Written(place.path, sink.bytes, sink.sha256)


def frame_lightly(axes: Any) -> None:
    """Give axes a faint grid, and no lines where there is no scale."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _bytes(figure: Any, format: str) -> bytes:
    drawn = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else {}
    # names inside an SVG are random without a salt
    with matplotlib().rc_context({"svg.hashsalt": "rebasin", "svg.fonttype": "path"}):
        figure.savefig(drawn, format=format, dpi=150, metadata=metadata)
    return drawn.getvalue()


def matplotlib(module: str = "") -> Any:
    """Return a module of matplotlib, or the package itself. Raises MachineError without it."""
    try:
        return importlib.import_module(f"matplotlib.{module}" if module else "matplotlib")
    except ImportError as error:
        raise MachineError(
            "a picture needs the package matplotlib, which cannot be imported",
            detail=str(error),
            hint="pip install 'rebasin-cli[plot]'",
        ) from error
