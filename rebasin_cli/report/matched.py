"""Sentences about models that were brought next to one another: what was found, what it means."""

from __future__ import annotations

from rebasin_cli.checkpoint import Written
from rebasin_cli.matching import Change, Matching, Status
from rebasin_cli.plan.outcome import Agreement, Aligned, Applied, Merged, Verified
from rebasin_cli.report.diagnosis import aligned_lines
from rebasin_cli.report.learning import held_out_lines
from rebasin_cli.report.preserve import preserve_lines
from rebasin_cli.report.renormalize import merged_lines
from rebasin_cli.report.statistics import unseen_lines
from rebasin_cli.report.words import count
from rebasin_cli.report.zip import zip_lines

NEAR = 0.9  # cosine of whole models from which they are called near: fine-tunes of one run


def cosine(matching: Matching) -> Change:
    """Return the cosine of the two models, taking them to be equally long."""
    return Change(
        _cosine(matching.objective.before, matching.distance.before),
        _cosine(matching.objective.after, matching.distance.after),
    )


def _cosine(objective: float, distance: float) -> float:
    length = distance**2 / 2 + objective
    return objective / length if length > 0 else 0.0


def advice(matching: Matching) -> str:
    """Return one sentence on what the figures mean for whoever wants to merge."""
    sentence: str = matching.status.value
    if matching.status is not Status.STAYED:
        return sentence
    if cosine(matching).before >= NEAR:
        return "nothing was gained: the two already share a basin and can be averaged as they are"
    return f"nothing was gained: {sentence}"


def _percent(change: Change) -> str:
    if change.before == 0:
        return ""
    return f" ({100 * (change.after - change.before) / change.before:+.1f} %)"


def _distance(matching: Matching) -> str:
    change = matching.distance
    return f"distance {change.before:.4g} -> {change.after:.4g}{_percent(change)}"


def _moved(matching: Matching) -> str:
    movable = [group for group in matching.groups if not group.fixed]
    units = sum(group.units for group in movable)
    moved = sum(group.moved for group in movable)
    groups = f"{matching.moved} of {count(len(movable), 'group')} moved"
    return f"{groups} ({moved:,} of {count(units, 'unit')})"


def _spec(outcome: Aligned | Merged | Verified) -> str:
    same = ", ".join(outcome.alike)
    return f"{outcome.spec} ({same} would do the same)" if same else str(outcome.spec)


def aligned_text(outcome: Aligned) -> str:
    """Return what an alignment found."""
    lines = [
        f"{outcome.model} aligned to {outcome.reference}: {advice(outcome.matching)}",
        f"  {_distance(outcome.matching)}, {_moved(outcome.matching)}",
        *held_out_lines(outcome.matching),
        *unseen_lines(outcome.matching),
        f"  spec {_spec(outcome)}, {outcome.seconds:.1f} s",
    ]
    if outcome.diagnosis:
        figures, words = aligned_lines(outcome.matching, outcome.diagnosis)
        lines = [*lines[:2], figures, *lines[2:], words]
    if outcome.untouched:
        lines.append(f"  {count(outcome.untouched, 'tensor')} not named by the spec: unchanged")
    lines += [f"  {_agreement(outcome.function)}"] if outcome.function else []
    lines += card_lines(outcome.written)
    if outcome.permutation:
        lines.append(f"  permutation saved to {outcome.permutation.path}")
    return "\n".join(lines)


def card_lines(written: Written | None) -> list[str]:
    """Return where the model card is, if there is one."""
    return [f"  model card: {written.card}"] if written and written.card else []


def applied_text(outcome: Applied) -> str:
    """Return what was applied to a model, and whether its function stayed."""
    how = "the inverse of " if outcome.inverted else ""
    text = (
        f"{outcome.model} permuted by {how}{outcome.permutation}: "
        f"{outcome.moved} of {count(outcome.groups, 'group')} moved"
    )
    return f"{text}\n  {_agreement(outcome.function)}" if outcome.function else text


def merged_text(outcome: Merged) -> str:
    """Return how models were merged."""
    lines = [f"{count(len(outcome.models), 'model')} merged: {outcome.reason}"]
    if outcome.objective:
        change = outcome.objective
        lines.append(
            f"  inner product over all pairs {change.before:.4g} -> {change.after:.4g}, "
            f"spec {_spec(outcome)}, {count(outcome.rounds, 'round')}, {outcome.seconds:.1f} s"
        )
    if outcome.torn is not None:
        lines.append(
            f"  before they were reconciled, {100 * outcome.torn:.0f} % of the units did not come "
            "back to themselves around three models; now all do"
        )
    if not outcome.converged:
        lines.append("  stopped before the models came to rest; more might be gained")
    lines += [f"  each model: {_agreement(outcome.function)}"] if outcome.function else []
    lines += merged_lines(outcome)
    lines += preserve_lines(outcome.preserved) if outcome.preserved else []
    lines += zip_lines(outcome.zipped) if outcome.zipped else []
    lines += card_lines(outcome.written)
    return "\n".join(lines)


def verdict(outcome: Verified) -> str:
    """Return whether one model is a permutation of another, as one sentence."""
    if outcome.function and outcome.function.same and not outcome.exact:
        return f"{outcome.b} computes what {outcome.a} does, but is not a permutation of it"
    if outcome.exact and outcome.matching.moved == 0:
        return f"{outcome.b} equals {outcome.a}"
    if outcome.exact:
        return f"{outcome.b} is {outcome.a} with its units reordered: {_moved(outcome.matching)}"
    return (
        f"{outcome.b} is not a permutation of {outcome.a}: "
        f"{count(len(outcome.different), 'tensor')} differ under the best one found, "
        f"by up to {outcome.max_difference:.3g} of the tensor's largest value"
    )


def verified_text(outcome: Verified) -> str:
    """Return what the verdict is founded on."""
    shown = outcome.different[:5]
    more = len(outcome.different) - len(shown)
    lines = [f"  {_distance(outcome.matching)} under spec {_spec(outcome)}"]
    lines += [f"  differs: {name}" for name in shown]
    lines += [f"  and {more} more"] if more > 0 else []
    lines += [f"  {_agreement(outcome.function)}"] if outcome.function else []
    return "\n".join(lines)


def _agreement(function: Agreement) -> str:
    answer = "the same function" if function.same else "not the same function"
    inputs = count(function.inputs, "random input")
    return (
        f"{answer}: outputs differ by {function.difference:.2g} of their scale "
        f"({inputs}, {function.dtype})"
    )
