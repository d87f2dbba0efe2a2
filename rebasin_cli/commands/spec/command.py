"""The commands `rebasin spec list`, `show` and `init`: those that only look something up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.display import Display
from rebasin_cli.options.parameters import offer, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.presentation.work import PrintedText

SpecName = Annotated[str, typer.Argument(metavar="NAME|FILE", readable=False)]


@with_options()
def list_(*, display: Annotated[Display, offer("json")]) -> PrintedText:
    """List the bundled specs: a name and what it is for on each line.

    Example:

        rebasin spec list
    """
    return PrintedText("spec list", lambda: _listed(json=display.json), display.json)


def _listed(*, json: bool) -> Iterator[str]:
    """Yield one line a bundled spec: its name and what it is for, or an event."""
    from rebasin_cli.presentation.events import event_line
    from rebasin_cli.spec.library import bundled_names, load_spec

    for name in bundled_names():
        description = load_spec(name).description or ""
        if json:
            fields = {"name": name, "description": description}
            yield event_line("result", "spec list", fields) + "\n"
        else:
            yield f"{name}\t{description}\n"


@with_options()
def show(spec: SpecName) -> PrintedText:
    """Print a spec: a bundled one as it is shipped, or a file.

    Example:

        rebasin spec show resnet-basic > my-resnet.yaml
    """
    return PrintedText("spec show", lambda: _shown(spec))


def _shown(spec: str) -> Iterator[str]:
    from rebasin_cli.spec.library import spec_text

    yield spec_text(spec)


@with_options("model")
def init(
    model: Annotated[Path, typer.Argument(metavar="MODEL", readable=False)],
    *,
    selection: Annotated[Selection, offer(*READING)],
) -> PrintedText:
    """Print a spec to start from: every tensor of MODEL, layers folded, all axes still fixed.

    Example:

        rebasin spec init model.safetensors > my.yaml
    """
    return PrintedText("spec init", lambda: _draft_lines(named_path(model), selection))


def _draft_lines(path: Path, selection: Selection) -> Iterator[str]:
    from rebasin_cli.checkpoint.reader import open_checkpoint
    from rebasin_cli.files.inputs import reading_of
    from rebasin_cli.spec.compression.draft import draft
    from rebasin_cli.tensors import infos

    with open_checkpoint(path, reading=reading_of(selection, 1)) as checkpoint:
        yield draft(infos(checkpoint))
