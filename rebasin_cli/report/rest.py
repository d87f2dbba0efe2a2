"""What became of all that a file holds beside the weights, in a line each."""

from __future__ import annotations

from rebasin_cli.checkpoint.parts import Fate
from rebasin_cli.plan.outcome import Aligned, Applied, Interpolated, Merged, Outcome
from rebasin_cli.plan.prune_outcome import Pruned
from rebasin_cli.plan.renormalize_outcome import Renormalized

_WITH_A_FILE = Aligned | Applied | Interpolated | Merged | Pruned | Renormalized


def rest_lines(outcome: Outcome) -> list[str]:
    """Return a line for what follows the weights, what is stale, and what was left out."""
    written = outcome.written if isinstance(outcome, _WITH_A_FILE) else None
    fate = written.fate if written else Fate()
    lines = []
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
