"""Where a mapped file lies in memory, so that its bytes can be read from the file instead.

A page of a mapping that the file has lost, by being cut short, kills the process that touches it;
so may one that a network file system fails to bring. A read by position fails with an error.
"""

from __future__ import annotations

import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint.failures import reading

_MAPS = Path("/proc/self/maps")
_BYTE_ORDER = "byteorder"  # the record of an archive that names the order of its numbers' bytes


@dataclass(frozen=True)
class MappedPart:
    """A part of memory that shows a file. start, end: addresses; offset: of the start, in it."""

    start: int
    end: int
    offset: int

    def place(self, address: int, length: int) -> int | None:
        """Return where bytes in memory are in the file; None for any that are not mapped here."""
        inside = self.start <= address and address + length <= self.end
        return address - self.start + self.offset if inside else None


def mapping_at(address: int, inode: int) -> MappedPart | None:
    """Return the mapping of a file at an address; None if there is another or none, or no telling.

    See proc_pid_maps(5): start-end, permissions, offset, device, inode, path.
    """
    with suppress(OSError):
        for line in _MAPS.read_text("utf-8", "surrogateescape").splitlines():
            places, _, offset, _, owner, *_ = line.split(maxsplit=5)
            start, end = (int(place, 16) for place in places.split("-"))
            if start <= address < end:
                return MappedPart(start, end, int(offset, 16)) if int(owner) == inode else None
    return None


def in_own_order(path: Path) -> bool:
    """Return whether the numbers of an archive are in this machine's order of bytes.

    torch turns others over in memory, where they are no longer what the file says.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.rpartition("/")[2] == _BYTE_ORDER]
        return all(archive.read(name).decode("ascii", "replace") == sys.byteorder for name in found)
