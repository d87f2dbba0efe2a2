"""Carrying out `rebasin inspect` and `rebasin diff`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.plan.automatic import fitting
from rebasin_cli.plan.diff import DiffPlan
from rebasin_cli.plan.headers import headers_of
from rebasin_cli.plan.look import LookPlan
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.outcome import Compared, Diagnosed, Inspected, TensorChange
from rebasin_cli.progress import Progress
from rebasin_cli.run.compare import max_difference, same_bits, wide
from rebasin_cli.run.diagnose import diagnosed_as_is
from rebasin_cli.tensors import TensorInfo, dtype_name, infos


def run_inspect(plan: LookPlan, progress: Progress) -> Iterator[Inspected]:
    """Yield what is in each checkpoint, from headers alone."""
    for model in plan.models:
        yield _inspected(model, plan.options)


def _inspected(model: Checkpoint, options: Options) -> Inspected:
    tensors = [info for info in infos(model).values() if options.selects(info.name)]
    counted = [info for info in tensors if info.name not in model.ties]
    return Inspected(
        path=model.path,
        format=model.layout.format,
        files=len(model.files),
        bytes=sum(file.stat().st_size for file in model.files),
        tensors=tuple(map(_described, tensors)),
        parameters=sum(info.numel for info in counted),
        dtypes=Counter(dtype_name(info.dtype) for info in tensors),
        ties=model.ties,
        metadata=model.metadata,
        fits=fitting(headers_of([model]), options),
    )


def _described(info: TensorInfo) -> dict[str, object]:
    return {"name": info.name, "dtype": dtype_name(info.dtype), "shape": list(info.shape)}


def run_diff(plan: DiffPlan, progress: Progress) -> Iterator[Compared]:
    """Yield how two checkpoints differ, tensor by tensor and under a spec group by group."""
    first, second = plan.models
    both = dict.fromkeys([*first.names(), *second.names()])
    names = [name for name in both if plan.options.selects(name)]
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


def _groups(plan: DiffPlan, progress: Progress) -> Diagnosed | None:
    if plan.choice is None:
        return None
    progress("comparing units", 0, 0)
    return diagnosed_as_is(plan.models, plan.choice, plan.machine, plan.options)


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
