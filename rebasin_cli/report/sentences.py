"""Outcomes in plain words: what goes to stdout as a result, and to stderr as talk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rebasin_cli.matching import Change, Matching, Status
from rebasin_cli.plan.anatomy_outcome import Anatomized
from rebasin_cli.plan.barrier_outcome import Contour, Curves, Drawn, Scored
from rebasin_cli.plan.outcome import (
    Agreement,
    Aligned,
    Applied,
    Checked,
    Compared,
    Failed,
    GroupSeen,
    Inspected,
    Interpolated,
    Kept,
    Merged,
    Outcome,
    Traced,
    Verified,
)
from rebasin_cli.plan.prune_outcome import Pruned
from rebasin_cli.plan.renormalize_outcome import Renormalized
from rebasin_cli.plan.statistics_outcome import Observed
from rebasin_cli.report.anatomy import anatomy_summary, anatomy_text
from rebasin_cli.report.barrier import (
    contour_summary,
    contour_text,
    curves_text,
    survey_summary,
)
from rebasin_cli.report.diagnosis import aligned_lines, legend, present_line, present_table
from rebasin_cli.report.explain import explained, rendered
from rebasin_cli.report.learning import held_out_lines
from rebasin_cli.report.preserve import preserve_lines
from rebasin_cli.report.prune import prune_summary
from rebasin_cli.report.renormalize import merged_lines, renormalize_summary
from rebasin_cli.report.statistics import statistics_summary, unseen_lines
from rebasin_cli.report.trace import traced_summary
from rebasin_cli.report.zip import zip_lines

NEAR = 0.9  # cosine of whole models from which they are called near: fine-tunes of one run


def result_text(outcome: Outcome) -> str:
    """Return what a result prints on stdout: a path, or a figure where no file is left."""
    match outcome:
        case Failed() | Scored() | Drawn():
            return ""
        case Curves():
            return curves_text(outcome)
        case Contour():
            return contour_text(outcome)
        case Anatomized():
            return anatomy_text(outcome)
        case Interpolated(written=None):
            value = outcome.value
            return f"{outcome.alpha:.6f}\t{value if isinstance(value, str) else json.dumps(value)}"
        case Verified():
            return _verdict(outcome)
        case Compared():
            return compared_text(outcome)
        case Inspected():
            return inspected_text(outcome)
        case Checked():
            return "\n".join(_group_line(group) for group in outcome.groups)
        case Traced(explain=True):
            return explained(outcome.trace)
        case Traced(written=None):
            return outcome.text.rstrip("\n")
        case Kept():
            return str(outcome.path)
        case Renormalized():
            return str(outcome.written.path)
        case Observed():
            return str(outcome.written.path)
        case Aligned() | Applied() | Merged() | Interpolated() | Traced() | Pruned():
            return str(outcome.written.path) if outcome.written else ""
    raise TypeError(f"no text for {type(outcome).__name__}")


def summary_text(outcome: Outcome) -> str:
    """Return what a person wants to know of an outcome; empty if stdout says it all."""
    match outcome:
        case Aligned():
            return _aligned(outcome)
        case Applied():
            return _applied(outcome)
        case Merged():
            return _merged(outcome)
        case Failed():
            return f"error: {outcome.error}"
        case Verified():
            return _verified(outcome)
        case Checked():
            return _checked(outcome)
        case Traced():
            return traced_summary(outcome)
        case Observed():
            return statistics_summary(outcome)
        case Pruned():
            return prune_summary(outcome)
        case Renormalized():
            return renormalize_summary(outcome)
        case Curves():
            return survey_summary(outcome.survey)
        case Contour():
            return contour_summary(outcome)
        case Anatomized():
            return anatomy_summary(outcome)
        case Drawn():
            return f"drawn: {outcome.written.path}"
        case Kept(why="exists"):
            return f"{outcome.path} is there already: nothing was done for it"
    return ""


def count(number: int, noun: str) -> str:
    """Return `1 group` or `1,024 groups`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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


def _aligned(outcome: Aligned) -> str:
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
    if outcome.permutation:
        lines.append(f"  permutation saved to {outcome.permutation.path}")
    return "\n".join(lines)


def _applied(outcome: Applied) -> str:
    how = "the inverse of " if outcome.inverted else ""
    text = (
        f"{outcome.model} permuted by {how}{outcome.permutation}: "
        f"{outcome.moved} of {count(outcome.groups, 'group')} moved"
    )
    return f"{text}\n  {_agreement(outcome.function)}" if outcome.function else text


def _merged(outcome: Merged) -> str:
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
    lines += merged_lines(outcome)
    lines += preserve_lines(outcome.preserved) if outcome.preserved else []
    lines += zip_lines(outcome.zipped) if outcome.zipped else []
    return "\n".join(lines)


def _verdict(outcome: Verified) -> str:
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


def _verified(outcome: Verified) -> str:
    shown = outcome.different[:5]
    more = len(outcome.different) - len(shown)
    lines = [f"  {_distance(outcome.matching)} under spec {_spec(outcome)}"]
    lines += [f"  differs: {name}" for name in shown]
    lines += [f"  and {more} more"] if more > 0 else []
    lines += [f"  {_agreement(outcome.function)}"] if outcome.function else []
    return "\n".join(lines)


def _agreement(function: Agreement) -> str:
    verdict = "the same function" if function.same else "not the same function"
    inputs = count(function.inputs, "random input")
    return (
        f"{verdict}: outputs differ by {function.difference:.2g} of their scale "
        f"({inputs}, {function.dtype})"
    )


def compared_text(outcome: Compared) -> str:
    """Return the table of a comparison: a line a tensor that differs, a total, the groups."""
    lines = [*_changes(outcome), _total(outcome)]
    if outcome.groups:
        table = rendered(present_table(outcome.groups)).rstrip("\n")
        lines += [
            "",
            table,
            legend(outcome.groups.diagnosis),
            present_line(outcome, outcome.groups),
        ]
    return "\n".join(lines)


def _changes(outcome: Compared) -> Iterator[str]:
    for change in outcome.changes:
        values = f"|A-B| {change.distance:.4g}, |A| {change.norm:.4g}"
        texts = [change.detail, values if change.kind in ("values", "dtype") else ""]
        yield f"{change.name}\t{change.kind}\t{', '.join(t for t in texts if t)}"


def _total(outcome: Compared) -> str:
    if not outcome.changes:
        return f"{outcome.a} and {outcome.b} are equal: {count(outcome.tensors, 'tensor')}"
    return (
        f"{len(outcome.changes)} of {count(outcome.tensors, 'tensor')} differ, "
        f"|A-B| {outcome.distance:.4g}, |A| {outcome.norm:.4g}"
    )


def inspected_text(outcome: Inspected) -> str:
    """Return what is in a checkpoint: a line for each tensor, then the totals."""
    lines = [f"{t['name']}\t{t['dtype']}\t{_shape(t)}" for t in outcome.tensors]
    lines += [f"{alias}\ttied to {name}" for alias, name in outcome.ties.items()]
    dtypes = ", ".join(f"{n} {dtype}" for dtype, n in outcome.dtypes.items())
    lines.append(
        f"{outcome.path}: {outcome.format}, {count(outcome.files, 'file')}, "
        f"{size_text(outcome.bytes)}, {count(len(outcome.tensors), 'tensor')} ({dtypes}), "
        f"{count(outcome.parameters, 'parameter')}"
    )
    fits = [name for name, verdict in outcome.fits.items() if verdict == "fits"]
    lines.append(f"spec: {', '.join(fits) if fits else 'no bundled spec fits'}")
    return "\n".join(lines)


def _shape(tensor: Mapping[str, Any]) -> str:
    return "x".join(map(str, tensor["shape"])) or "scalar"


def size_text(size: float) -> str:
    """Return `3.73 MB`: decimal units, as disks and the safetensors tools count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _group_line(group: GroupSeen) -> str:
    per = f" per {group.parents[-1]}" if group.parents else ""
    per += " fixed" if group.fixed else ""
    shown = ", ".join(group.tensors[:4]) + (", ..." if len(group.tensors) > 4 else "")
    return f"{group.name}\t{group.size}{per}\t{shown}"


def _checked(outcome: Checked) -> str:
    if outcome.error:
        return "\n".join(f"error: {problem}" for problem in outcome.error.problems)
    if outcome.model is None:
        return f"{outcome.spec} is a valid spec; name a MODEL to check it against"
    fixed = sum(group.fixed for group in outcome.groups)
    groups = count(len(outcome.groups), "group") + (f", {fixed} of them fixed" if fixed else "")
    lines = [f"{outcome.spec} fits {outcome.model}: {groups}"]
    shown = ", ".join(outcome.untouched[:4]) + (", ..." if len(outcome.untouched) > 4 else "")
    if outcome.untouched:
        lines.append(f"  {count(len(outcome.untouched), 'tensor')} not mentioned: {shown}")
    return "\n".join(lines)
