"""What a trace found, as tables: which groups move, what does not, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rich.markup import escape
from rich.table import Column, Table

from rebasin_cli.presentation.tables import render, table
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.tracer.derivation.derive import FixedAxis
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.wording import MORE_IN_GROUPS, list_names

SHOWN = 3  # tensors named as examples


def explain_trace(trace: Trace) -> str:
    """Return the tables for a trace: groups, fixed axes by reason, tensors not exercised."""
    tables = [_groups(trace), _fixed(trace.fixed)]
    if trace.reasons:
        tables.append(_permuted_only(trace))
    if trace.unused:
        tables.append(_unused_table(trace))
    return "\n".join(map(render, tables)).rstrip("\n")


def moving_groups(trace: Trace) -> list[BoundGroup]:
    """Return the groups that can move, by permutations or by what their class allows besides."""
    groups = trace.bound.groups.values()
    return [group for group in groups if not group.fixed or group.maps != PERMUTATION]


def tensors_with(trace: Trace, group: str) -> list[str]:
    """Return the tensors that a group occurs in (the first of each stack)."""
    return [t.members[0] for t in trace.bound.tensors if group in t.groups]


def _groups(trace: Trace) -> Table:
    rows = _table("group", "size", "per", "maps", "share", "from")
    shares = _shares(trace)
    for group in moving_groups(trace):
        rows.add_row(
            escape(group.name),
            f"{group.size:,}",
            escape(group.parents[-1]) if group.parents else "",
            group.maps,
            f"{100 * shares[group.name]:.2f} %",
            _examples(tensors_with(trace, group.name)),
        )
    return rows


def _shares(trace: Trace) -> dict[str, float]:
    """Return, for each group, the elements that it moves as a share of all floating ones."""
    tied = trace.ties
    every = sum(i.reals for n, i in trace.infos.items() if i.floating and n not in tied) or 1
    moved = dict.fromkeys(trace.bound.groups, 0)
    for tensor in trace.bound.tensors:
        if tensor.members[0] in tied:
            continue
        for block in tensor.blocks:
            for name in {name for name in block.groups if name}:
                moved[name] += block.numel
    return {name: count / every for name, count in moved.items()}


def _fixed(fixed: Sequence[FixedAxis]) -> Table:
    """Return a table of reasons; those of the second kind are limits of the tracer."""
    rows = _table("fixed because", "axes", "", "such as")
    for (reason, soft), axes in _by_reason(fixed):
        mark = "limit of the tracer" if soft else ""
        examples = dict.fromkeys(f"{a.tensor}[{a.axis}]" for a in axes)
        rows.add_row(escape(reason), f"{len(axes):,}", mark, _examples(list(examples)))
    return rows


def _by_reason(fixed: Iterable[FixedAxis]) -> Iterator[tuple[tuple[str, bool], list[FixedAxis]]]:
    """Yield reasons with their axes: limits of the tracer last, the most frequent first."""
    found: dict[tuple[str, bool], list[FixedAxis]] = {}
    for axis in fixed:
        found.setdefault((axis.reason, axis.soft), []).append(axis)
    yield from sorted(found.items(), key=lambda item: (item[0][1], -len(item[1])))


def _permuted_only(trace: Trace) -> Table:
    """Return a table of what keeps groups from being rotated, streams first."""
    rows = _table("permuted and not rotated because", "groups", "such as")
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in trace.reasons.items():
        by_reason[reason].append(name)
    tensors = Counter(group for t in trace.bound.tensors for group in t.groups)

    def widest(item: tuple[str, list[str]]) -> int:
        return -max(tensors[name] for name in item[1])

    for reason, names in sorted(by_reason.items(), key=widest):
        rows.add_row(escape(reason), f"{len(names):,}", _examples(names))
    return rows


def _unused_table(trace: Trace) -> Table:
    rows = _table("not exercised", "shape")
    for name in trace.unused:
        rows.add_row(escape(name), "x".join(map(str, trace.infos[name].shape)))
    return rows


def _examples(names: Sequence[str]) -> str:
    return escape(list_names(names, SHOWN, rest=MORE_IN_GROUPS))


def _table(*headings: str) -> Table:
    columns = []
    for heading in headings:
        numeric = heading in ("size", "share", "axes", "groups")
        columns.append(Column(heading, justify="right" if numeric else "left", overflow="fold"))
    return table(*columns)
