"""All bundled specs that the tracer writes, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.library import convolutions, decoders, diffusion, encoders, modules, pairs, pictures
from tests.library.entry import Entry
from tests.library.single_files import entries as single_files

ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for page in (decoders, encoders, pairs, pictures, convolutions, modules, diffusion, single_files)
    for entry in page.ENTRIES
}
