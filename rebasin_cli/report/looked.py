"""What is in checkpoints and specs, and where two of them differ, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rebasin_cli.plan.outcome import Checked, Compared, GroupSeen, Inspected
from rebasin_cli.report.diagnosis import legend, present_line, present_table
from rebasin_cli.report.explain import rendered
from rebasin_cli.report.words import count, size_text


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


def group_line(group: GroupSeen) -> str:
    """Return a group, its size and the tensors it occurs in."""
    per = f" per {group.parents[-1]}" if group.parents else ""
    per += " fixed" if group.fixed else ""
    shown = ", ".join(group.tensors[:4]) + (", ..." if len(group.tensors) > 4 else "")
    return f"{group.name}\t{group.size}{per}\t{shown}"


def checked_text(outcome: Checked) -> str:
    """Return whether a spec is valid and fits, or all that is wrong with it."""
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
