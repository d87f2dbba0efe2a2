"""A look at a spec's text that rules it out for a checkpoint before it is even parsed."""

from __future__ import annotations

import re

from rebasin_cli.spec.outline import Outlines

# An entry under `tensors:` on a line of its own, with or without quotes.
_ENTRY = re.compile(
    r"""^ {2}(?:"([^"\\]+)"|'([^']+)'|([^\s"'#&*!|>%@`{\[?:][^:#\n]*)):\s""", re.MULTILINE
)
_SECTION = re.compile(r"^tensors:[ \t]*\n((?: .*\n|\s*#.*\n|\n)*)", re.MULTILINE)
_OPEN = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|[*\\]")  # what stands for more than itself


def ruled_out(text: str, names: Outlines) -> bool:
    """Return whether some pattern of a spec matches no name, as far as a glance can tell.

    text: of a spec. A pattern that matches nothing is an error, so nothing that fits is ruled
    out: every part of a pattern that stands for itself has to occur in some name.
    """
    section = _SECTION.search(text)
    keys = _ENTRY.findall(section[1]) if section else []
    listing = "\n".join(names.names.order)
    return any(
        part not in listing
        for key in map("".join, keys)
        if not key.endswith("?")
        for part in _OPEN.split(key)
    )
