"""Carrying out `rebasin diff`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rebasin_cli.alignment.unit_comparison import GroupComparison, compare_as_they_are
from rebasin_cli.commands.diff.plan import Compared, DiffPlan, RotatedFrame, TensorChange
from rebasin_cli.folding.rotated_outcome import count_classes
from rebasin_cli.folding.rotated_pair import rotate_pair, rounding_of
from rebasin_cli.folding.rotation_problem import RotationProblem
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource, dtype_name
from rebasin_cli.tensors.compare import measure_gap, same_bits


def run_diff(plan: DiffPlan, progress: Progress) -> Iterator[Compared]:
    """Yield how two checkpoints differ, tensor by tensor and under a spec group by group."""
    first, second = plan.models
    both = dict.fromkeys([*first.names(), *second.names()])
    names = [name for name in both if plan.request.selection.selects(name)]
    if plan.rotation:
        yield _in_one_frame(plan, plan.rotation, names, progress)
        return
    changes: list[TensorChange] = []
    for count, name in enumerate(names):
        progress("comparing", count, len(names))
        changes.append(_change(name, first, second))
    yield replace(_comparison_outcome(plan, changes), groups=_groups(plan, progress))


def _in_one_frame(
    plan: DiffPlan, problem: RotationProblem, names: Sequence[str], progress: Progress
) -> Compared:
    """Return how two models differ once they are folded and B is rotated next to A."""
    pair = rotate_pair(problem, plan.request.selection, progress)
    a, b = plan.models
    common = set(a.names()) & set(b.names())
    allowed = {n: rounding_of(a.info(n), b.info(n)) for n in names if n in common}
    changes: list[TensorChange] = []
    for count, name in enumerate(names):
        progress("comparing", count, len(names))
        change = _change(name, pair.reference, pair.moved)
        changes.append(_beyond_rounding(change, allowed.get(name, 0.0)))
    frame = RotatedFrame(
        spec=problem.choice.name,
        classes=count_classes(problem.folding.classes),
        cosine=pair.found.cosine,
        sweeps=pair.found.sweeps,
        rounding=max(allowed.values(), default=0.0),
        tied=pair.tied,
    )
    return replace(_comparison_outcome(plan, changes), frame=frame)


def _beyond_rounding(change: TensorChange, allowed: float) -> TensorChange:
    """Return a change, as none if it is rounding: maps are computed, and compare no bits.

    allowed: a share of the tensor's length.
    """
    beyond = change.kind != "values" or change.distance > allowed * change.norm
    return change if beyond else replace(change, kind="equal")


def _comparison_outcome(plan: DiffPlan, changes: Sequence[TensorChange]) -> Compared:
    first, second = plan.models
    return Compared(
        a=first.path,
        b=second.path,
        tensors=len(changes),
        changes=tuple(change for change in changes if change.kind != "equal"),
        distance=sum(change.distance**2 for change in changes) ** 0.5,
        norm=sum(change.norm**2 for change in changes) ** 0.5,
    )


def _groups(plan: DiffPlan, progress: Progress) -> GroupComparison | None:
    if plan.choice is None:
        return None
    progress("comparing units", 0, 0)
    return compare_as_they_are(plan.models, plan.choice, plan.machine, plan.request.display)


def _change(name: str, first: TensorSource, second: TensorSource) -> TensorChange:
    """Return how one tensor differs; values are read only if both have it in one shape."""
    if name not in first.names() or name not in second.names():
        return TensorChange(name, "only in A" if name in first.names() else "only in B")
    ours, theirs = first.info(name), second.info(name)
    if ours.shape != theirs.shape:
        return TensorChange(name, "shape", f"{list(ours.shape)} and {list(theirs.shape)}")
    x, y = first.load(name), second.load(name)
    same, apart = same_bits(x, y), measure_gap(x, y)
    kind, detail = "equal" if same else "values", ""
    if ours.dtype != theirs.dtype:
        kind, detail = "dtype", f"{dtype_name(ours.dtype)} and {dtype_name(theirs.dtype)}"
    distance = 0.0 if same else apart.distance  # NaN equals itself
    return TensorChange(name, kind, detail, distance, apart.norm, apart.largest)
