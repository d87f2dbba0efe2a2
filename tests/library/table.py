"""All bundled specs that the tracer writes, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.library import convolutions, decoders, diffusion, encoders, modules, pairs, pictures
from tests.library.entry import Entry
from tests.library.single_files import entries, transformers_entries

PAGES = (decoders, encoders, pairs, pictures, convolutions, modules, diffusion)
SINGLE_FILES = (entries, transformers_entries)
ENTRIES: Mapping[str, Entry] = {
    entry.name: entry for page in (*PAGES, *SINGLE_FILES) for entry in page.ENTRIES
}
