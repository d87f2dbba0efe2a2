"""What a matching found, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebasin_cli.alignment.aligned import Aligned
from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.alignment.unit_report import (
    aligned_fields,
    aligned_lines,
    before_and_after,
    unit_fields,
)
from rebasin_cli.alignment.unit_tables import matched_details
from rebasin_cli.matching.problem.result import Change, HeldOut, Matching, Status, UnitComparison
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.written import card_lines
from rebasin_cli.wording import AND_SO_ON, MORE_IN_GROUPS, count, list_names

ROTATABLE = "the residual stream can be rotated too, for a better midpoint: --symmetry orthogonal"
_NAMED = 2  # tensors that no spec names
_WIDENED = 8  # groups that are named
NEAR = 0.9  # cosine of whole models from which they are called near: fine-tunes of one run


def _cosines(matching: Matching) -> Change:
    """Return the cosine of the two models, taking them to be equally long."""
    return Change(
        _cosine(matching.objective.before, matching.distance.before),
        _cosine(matching.objective.after, matching.distance.after),
    )


def _cosine(objective: float, distance: float) -> float:
    length = distance**2 / 2 + objective
    return objective / length if length > 0 else 0.0


def _advice(matching: Matching) -> str:
    """Return one sentence on what the figures mean for whoever wants to merge."""
    sentence: str = matching.status.value
    if matching.status is not Status.STAYED:
        return sentence
    if _cosines(matching).before >= NEAR:
        return "nothing was gained: the two already share a basin and can be averaged as they are"
    return f"nothing was gained: {sentence}"


def _percent(change: Change) -> str:
    if change.before == 0:
        return ""
    return f" ({100 * (change.after - change.before) / change.before:+.1f} %)"


def distance_text(matching: Matching) -> str:
    change = matching.distance
    return f"distance {change.before:.4g} -> {change.after:.4g}{_percent(change)}"


def moved_text(matching: Matching) -> str:
    movable = [group for group in matching.groups if not group.fixed]
    units = sum(group.units for group in movable)
    moved = sum(group.moved for group in movable)
    groups = f"{matching.moved} of {count(len(movable), 'group')} moved"
    return f"{groups} ({moved:,} of {count(units, 'unit')})"


def named_spec(spec: str, alike: Sequence[str]) -> str:
    """Return the name of a spec, and those of others that would do the same."""
    same = ", ".join(alike)
    return f"{spec} ({same} would do the same)" if same else spec


def _aligned_text(outcome: Aligned) -> str:
    """Return what an alignment found."""
    lines = [
        f"{outcome.model} aligned to {outcome.reference}: {_advice(outcome.matching)}",
        f"  {distance_text(outcome.matching)}, {moved_text(outcome.matching)}",
        *_held_out_lines(outcome.matching),
        *_unseen_lines(outcome.matching),
        f"  spec {named_spec(outcome.spec, outcome.alike)}, {outcome.seconds:.1f} s",
    ]
    if outcome.widened:
        told = [f"{name} {a:,} -> {b:,}" for name, (a, b) in outcome.widened.items()]
        lines.insert(1, f"  widened: {list_names(told, _WIDENED)}")
    if outcome.comparison:
        figures, words = aligned_lines(outcome.matching, outcome.comparison)
        lines = [*lines[:2], figures, *lines[2:], words]
    if outcome.untouched:
        names = list_names(outcome.untouched, _NAMED, rest=AND_SO_ON)
        tensors = count(len(outcome.untouched), "tensor")
        lines.append(f"  {tensors} not named by the spec: unchanged ({names})")
    lines += [f"  {agreement_text(outcome.function)}"] if outcome.function else []
    if outcome.rotatable:
        lines.append(f"  {ROTATABLE}")
    lines += card_lines(outcome.written)
    if outcome.permutation:
        lines.append(f"  permutation saved to {outcome.permutation.path}")
    return "\n".join(lines)


def agreement_text(function: FunctionDifference) -> str:
    answer = "the same function" if function.same else "not the same function"
    inputs = count(function.inputs, "random input")
    return (
        f"{answer}: outputs differ by {function.difference:.2g} of their scale "
        f"({inputs}, {function.dtype})"
    )


def _group_fields(matching: Matching, found: UnitComparison | None) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name,
            "size": group.size,
            "units": group.units,
            "moved": group.moved,
            "fixed": group.fixed,
            "cosine": before_and_after(group.cosine),
            "gain": group.gain,
            **(unit_fields(found.groups[group.name]) if found else {}),
        }
        for group in matching.groups
    ]


def matched_fields(matching: Matching, found: UnitComparison | None = None) -> dict[str, Any]:
    return {
        "status": matching.status.name.lower(),
        "method": matching.method,
        "start": matching.start,
        "objective": before_and_after(matching.objective),
        "distance": before_and_after(matching.distance),
        **(aligned_fields(matching, found) if found else {}),
        **_held_out_fields(matching),
        **_unseen_fields(matching),
        "groups": _group_fields(matching, found),
    }


def _aligned_fields(outcome: Aligned) -> dict[str, Any] | None:
    if outcome.written is None:  # a step on the way
        return None
    return {
        "model": str(outcome.model),
        "reference": str(outcome.reference),
        "spec": outcome.spec,
        "alike": list(outcome.alike),
        **(
            {"widened": {g: list(n) for g, n in outcome.widened.items()}} if outcome.widened else {}
        ),
        **matched_fields(outcome.matching, outcome.comparison),
        "untouched": len(outcome.untouched),
        "permutation": str(outcome.permutation.path) if outcome.permutation else None,
        **agreement_fields(outcome.function),
        "seconds": outcome.seconds,
    }


def agreement_fields(function: FunctionDifference | None) -> dict[str, Any]:
    if function is None:
        return {"same_function": None, "output_difference": None}
    return {"same_function": function.same, "output_difference": function.difference}


def _held_out_fields(matching: Matching) -> dict[str, Any]:
    """Return what a result event says of the loss on held-out data, if there was any."""
    found = matching.held_out
    if found is None:
        return {}
    return {
        "held_out": {
            "loss": before_and_after(found.loss),
            "losses": list(found.losses),
            "epochs": found.epochs,
            "best_epoch": found.best,
            "batch_statistics": found.norms,
            "stopped": found.stopped or None,
        }
    }


def _held_out_lines(matching: Matching) -> list[str]:
    """Return what a summary says of the loss on held-out data: some lines, or none."""
    found = matching.held_out
    if found is None:
        return []
    epochs = count(found.epochs, "epoch")
    lines = [f"  held-out loss of the midpoint {_outcome(found)} ({epochs})"]
    if found.norms:
        lines.append("  this is with batch statistics in the norms: reset those of a merged model")
    return [*lines, f"  learning broke off: {found.stopped}"] if found.stopped else lines


def _outcome(found: HeldOut) -> str:
    if found.best == 0:
        return f"{found.loss.before:.4g}: none was found below that of matching weights"
    return f"{found.loss.before:.4g} by weights -> {found.loss.after:.4g} in epoch {found.best}"


SHOWN = 5  # names of groups


def _unseen_fields(matching: Matching) -> dict[str, Any]:
    """Return what a result event says of groups that no activations tell of."""
    return {"unseen": list(matching.unseen)} if matching.method == "activations" else {}


def _unseen_lines(matching: Matching) -> list[str]:
    """Return what a summary says of groups that were matched on weights instead."""
    if not matching.unseen:
        return []
    return [
        f"  matched on weights, since no activations tell of them: {listed_names(matching.unseen)}"
    ]


def listed_names(names: tuple[str, ...]) -> str:
    return list_names(names, SHOWN, rest=MORE_IN_GROUPS)


ALIGNED: Presenter[Aligned] = Presenter(
    fields=_aligned_fields,
    summary=_aligned_text,
    details=lambda outcome: matched_details(outcome.matching, outcome.comparison),
    written=lambda outcome: outcome.written,
)
PERMUTING: Presenters = {Aligned: ALIGNED}
