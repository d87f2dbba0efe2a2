"""What is said of a file that was written, and of what it holds beside the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rebasin_cli.checkpoint.writing.writer import Written


def file_fields(written: Written | None) -> dict[str, Any]:
    """Return what an event says of its file."""
    if written is None:
        return {}
    fate, card = written.fate, {"card": str(written.card)} if written.card else {}
    named = {"parts": fate.parts, "stale": fate.stale, "dropped": fate.dropped}
    return {
        "path": str(written.path),
        "bytes": written.bytes,
        "sha256": written.sha256,
        **{field: list(keys) for field, keys in named.items()},
        **card,
    }


def rest_lines(written: Written | None) -> list[str]:
    """Return a line for what follows the weights, what is stale, and what was left out."""
    if written is None:
        return []
    fate, lines = written.fate, []
    if fate.parts:
        lines.append(f"  follow the weights: {', '.join(fate.parts)}")
    if fate.stale:
        lines.append(
            f"  stale: {', '.join(fate.stale)}: left as in the file before, and belongs to the "
            "old weights (--drop-rest leaves it out)"
        )
    if fate.dropped:
        lines.append(f"  left out: {', '.join(fate.dropped)}")
    return lines


def card_lines(written: Written | None) -> list[str]:
    """Return where the model card is, if there is one."""
    return [f"  model card: {written.card}"] if written and written.card else []
