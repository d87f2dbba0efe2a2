"""The list of bundled specs."""

from __future__ import annotations

from collections.abc import Iterator

from rebasin_cli.report.events import event_line
from rebasin_cli.spec import bundled, load_spec


def list_lines(*, json: bool) -> Iterator[str]:
    """Yield one line a bundled spec: its name and what it is for, or an event."""
    for name in bundled():
        description = load_spec(name).description or ""
        if json:
            yield event_line("result", "spec list", {"name": name, "description": description})
        else:
            yield f"{name}\t{description}"
