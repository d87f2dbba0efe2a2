"""Carrying out `rebasin inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.inspect.plan import Inspected, InspectPlan
from rebasin_cli.files.headers import headers_of
from rebasin_cli.options.selection import Selection
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.bundled import bundled_verdicts
from rebasin_cli.tensors import TensorInfo, dtype_name, infos


def run_inspect(plan: InspectPlan, progress: Progress) -> Iterator[Inspected]:
    """Yield what is in each checkpoint, from headers alone."""
    for model in plan.models:
        yield _inspect_model(model, plan.request.selection)


def _inspect_model(model: Checkpoint, selection: Selection) -> Inspected:
    tensors = [info for info in infos(model).values() if selection.selects(info.name)]
    counted = [info for info in tensors if info.name not in model.ties]
    return Inspected(
        path=model.path,
        format="dcp" if model.in_pieces else model.layout.format,
        files=len(model.files),
        bytes=sum(file.stat().st_size for file in model.files),
        tensors=tuple(map(_describe_tensor, tensors)),
        parameters=sum(info.numel for info in counted),
        dtypes=Counter(dtype_name(info.dtype) for info in tensors),
        ties=model.ties,
        metadata=model.metadata,
        rest=model.rest,
        fits=bundled_verdicts(headers_of([model]), selection),
    )


def _describe_tensor(info: TensorInfo) -> dict[str, object]:
    return {"name": info.name, "dtype": dtype_name(info.dtype), "shape": list(info.shape)}
