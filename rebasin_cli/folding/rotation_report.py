"""What an alignment by orthogonal maps found, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rebasin_cli.alignment.unit_report import before_and_after
from rebasin_cli.folding.fold_report import FOLDED, function_lines, tied_lines, untied_lines
from rebasin_cli.folding.folded_models import Folded
from rebasin_cli.folding.rotated_outcome import LearnedMaps, Rotated
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import count


def _text(outcome: Rotated) -> str:
    lines = [
        f"{outcome.model} aligned to {outcome.reference} by orthogonal maps",
        f"  {maps_text(outcome, null=outcome.null)}",
        f"  spec {outcome.spec}, {outcome.seconds:.1f} s",
    ]
    lines += _learned_lines(outcome.learned)
    lines += [*tied_lines(outcome.tied), *untied_lines(outcome.untied)]
    lines += function_lines(outcome.function)
    lines += [f"  maps saved to {outcome.saved.path}"] if outcome.saved else []
    if outcome.written:
        lines.append(f"  average it with {outcome.reference}: the reference was folded too")
    return "\n".join(lines)


class MapsFound(Protocol):
    """What a search for maps came to."""

    @property
    def classes(self) -> Mapping[str, int]:
        """By class of maps, how many groups have it."""

    @property
    def cosine(self) -> Change:
        """Of the folded models, before and after."""

    @property
    def sweeps(self) -> int:
        """How often each family was visited."""


def maps_text(found: MapsFound, *, null: float | None = None) -> str:
    """Return how far maps brought two models together, and how many there are of each class.

    null: the cosine that the same search makes of unrelated weights, if that was looked for.
    """
    groups = ", ".join(f"{number:,} {name}" for name, number in found.classes.items())
    before, after = found.cosine.before, found.cosine.after
    unrelated = "" if null is None else f" (unrelated weights, matched: {null:.4f})"
    sweeps = count(found.sweeps, "sweep")
    return f"cosine {before:.4f} -> {after:.4f}{unrelated} in {sweeps}; maps of groups: {groups}"


def _learned_lines(learned: LearnedMaps | None) -> list[str]:
    if learned is None:
        return []
    before, least = learned.losses[0], learned.losses[learned.step]
    how = f"{before:.4g} -> {least:.4g} in step {learned.step}" if learned.step else f"{before:.4g}"
    none = "" if learned.step else ": no step was better than matching"
    return [f"  held-out loss of the midpoint against both models' answers {how}{none}"]


def _fields(outcome: Rotated) -> dict[str, Any]:
    return {
        "model": str(outcome.model),
        "reference": str(outcome.reference),
        "symmetry": "orthogonal",
        "spec": outcome.spec,
        "maps": outcome.classes,
        "cosine": before_and_after(outcome.cosine),
        "null": outcome.null,
        "sweeps": outcome.sweeps,
        **_learned_fields(outcome.learned),
        "permutation": str(outcome.saved.path) if outcome.saved else None,
        "tied": outcome.tied,
        "untied": list(outcome.untied),
        "output_difference": outcome.function.difference if outcome.function else None,
        "seconds": outcome.seconds,
    }


def _learned_fields(learned: LearnedMaps | None) -> dict[str, Any]:
    if learned is None:
        return {}
    losses = {str(step): loss for step, loss in learned.losses.items()}
    return {"learned": {"step": learned.step, "losses": losses}}


ROTATED: Presenter[Rotated] = Presenter(
    fields=_fields, summary=_text, written=lambda outcome: outcome.written
)
ROTATING: Presenters = {Folded: FOLDED, Rotated: ROTATED}
