"""Carrying out `rebasin diff`."""

from __future__ import annotations

from collections.abc import Iterator

from rebasin_cli.alignment.unit_comparison import GroupComparison, compare_as_they_are
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.diff.plan import Compared, DiffPlan, TensorChange
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import dtype_name
from rebasin_cli.tensors.compare import max_difference, same_bits, wide


def run_diff(plan: DiffPlan, progress: Progress) -> Iterator[Compared]:
    """Yield how two checkpoints differ, tensor by tensor and under a spec group by group."""
    first, second = plan.models
    both = dict.fromkeys([*first.names(), *second.names()])
    names = [name for name in both if plan.request.selection.selects(name)]
    changes: list[TensorChange] = []
    for count, name in enumerate(names):
        progress("comparing", count, len(names))
        changes.append(_change(name, first, second))
    yield Compared(
        a=first.path,
        b=second.path,
        tensors=len(names),
        changes=tuple(change for change in changes if change.kind != "equal"),
        distance=sum(change.distance**2 for change in changes) ** 0.5,
        norm=sum(change.norm**2 for change in changes) ** 0.5,
        groups=_groups(plan, progress),
    )


def _groups(plan: DiffPlan, progress: Progress) -> GroupComparison | None:
    if plan.choice is None:
        return None
    progress("comparing units", 0, 0)
    return compare_as_they_are(plan.models, plan.choice, plan.machine, plan.request.display)


def _change(name: str, first: Checkpoint, second: Checkpoint) -> TensorChange:
    """Return how one tensor differs; values are read only if both have it in one shape."""
    if name not in first.names() or name not in second.names():
        return TensorChange(name, "only in A" if name in first.names() else "only in B")
    ours, theirs = first.info(name), second.info(name)
    if ours.shape != theirs.shape:
        return TensorChange(name, "shape", f"{list(ours.shape)} and {list(theirs.shape)}")
    x, y = first.load(name), second.load(name)
    kind, detail = "equal" if same_bits(x, y) else "values", ""
    if ours.dtype != theirs.dtype:
        kind, detail = "dtype", f"{dtype_name(ours.dtype)} and {dtype_name(theirs.dtype)}"
    distance = 0.0 if kind == "equal" else float((wide(x) - wide(y)).abs().square().sum()) ** 0.5
    norm = float(wide(x).abs().square().sum()) ** 0.5
    return TensorChange(name, kind, detail, distance, norm, max_difference(x, y))
