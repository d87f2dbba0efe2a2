"""What learning from data came to, for people and as JSON."""

from __future__ import annotations

from typing import Any

from rebasin_cli.matching import Matching
from rebasin_cli.matching.result import HeldOut
from rebasin_cli.report.diagnosis import span


def held_out_fields(matching: Matching) -> dict[str, Any]:
    """Return what a result event says of the loss on held-out data, if there was any."""
    found = matching.held_out
    if found is None:
        return {}
    return {
        "held_out": {
            "loss": span(found.loss),
            "losses": list(found.losses),
            "epochs": found.epochs,
            "best_epoch": found.best,
            "batch_statistics": found.norms,
            "stopped": found.stopped or None,
        }
    }


def held_out_lines(matching: Matching) -> list[str]:
    """Return what a summary says of the loss on held-out data: some lines, or none."""
    found = matching.held_out
    if found is None:
        return []
    epochs = f"{found.epochs:,} epoch{'' if found.epochs == 1 else 's'}"
    lines = [f"  held-out loss of the midpoint {_outcome(found)} ({epochs})"]
    if found.norms:
        lines.append("  this is with batch statistics in the norms: reset those of a merged model")
    return [*lines, f"  learning broke off: {found.stopped}"] if found.stopped else lines


def _outcome(found: HeldOut) -> str:
    if found.best == 0:
        return f"{found.loss.before:.4g}: none was found below that of matching weights"
    return f"{found.loss.before:.4g} by weights -> {found.loss.after:.4g} in epoch {found.best}"
