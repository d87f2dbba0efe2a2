"""All bundled specs that the tracer writes, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.library import convolutions, decoders, encoders, modules, pairs, pictures
from tests.library.entry import Entry

ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for page in (decoders, encoders, pairs, pictures, convolutions, modules)
    for entry in page.ENTRIES
}
