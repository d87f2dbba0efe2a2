"""Numbers in words, for people."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Return `1 group`, `1,024 groups` or `2 biases`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def size_text(size: float) -> str:
    """Return `3.73 MB`: decimal units, as disks and the safetensors tools count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
