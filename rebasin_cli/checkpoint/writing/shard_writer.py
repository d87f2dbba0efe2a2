"""One weight file written into a sink, in either format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Any, cast

import torch
from torch import Tensor

from rebasin_cli.checkpoint.header import dump_header
from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.parts import KeyPath, value_at
from rebasin_cli.checkpoint.torch_format.container import find_state_dict, tensors_in_state
from rebasin_cli.checkpoint.torch_format.unpickle import load_container
from rebasin_cli.checkpoint.writing.publish import Sink
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.ahead import made_ahead
from rebasin_cli.tensors.ranges import Ranged
from rebasin_cli.tensors.torch_threads import one_thread

# Elements of a range: it stays in a core's cache from where it is read to where it is written, and
# in float64 below 1 MB, of which blocks go back to the system at once (`prepare_heap`).
_RANGE = 120 << 10
_AHEAD = 2  # ranges that each thread may be ahead of the writing


@dataclass(frozen=True)
class PartJob:
    """New tensors for a part that the nested file has already; everything else in it stays.

    stored: name of a tensor -> its key in the part; its number if the part is a list.
    """

    path: KeyPath
    tensors: tuple[TensorInfo, ...]
    produce: Callable[[str], Tensor]
    stored: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """What to write: the tensors in order, where they come from, and the form.

    beside: texts of other files of a folder, by name, instead of those that would be copied.
    threads: that make ranges of tensors.
    """

    tensors: tuple[TensorInfo, ...]
    produce: Callable[[str], Tensor]
    layout: Layout
    metadata: Mapping[str, str]
    beside: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[PartJob, ...] = ()
    ranged: Callable[[str], Ranged | None] = lambda name: None
    threads: int = 1

    def stored(self) -> list[TensorInfo]:
        """Return the tensors under the names that the file has."""
        return [replace(info, name=self.layout.stored_name(info.name)) for info in self.tensors]


def _made(job: Job | PartJob, info: TensorInfo) -> Tensor:
    """Return a tensor as planned, contiguous; anything else is a bug."""
    tensor = job.produce(info.name).detach().resolve_conj().resolve_neg()
    if tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
        found = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise AssertionError(f"{info.name}: planned {info.dtype} {info.shape}, made {found}")
    return tensor.cpu().contiguous()


def _made_range(read: Ranged, info: TensorInfo, begin: int, end: int) -> Tensor:
    """Return a range of a tensor as planned; anything else is a bug."""
    values = read(begin, end).resolve_conj().resolve_neg()
    if values.shape != (end - begin,) or values.dtype != info.dtype:
        found = f"{values.dtype} {tuple(values.shape)}"
        raise AssertionError(f"{info.name}: planned {info.dtype} {end - begin}, made {found}")
    return values.cpu().contiguous()


def require_writable(job: Job) -> None:
    """Raise CheckpointError if the format cannot store one of the tensors."""
    names = [info.name for info in job.tensors]
    if len(set(names)) < len(names):
        raise AssertionError("a tensor is planned twice")
    if job.layout.format == "safetensors":
        dump_header(job.stored(), job.metadata)


def write_shard(sink: Sink, job: Job, *, container: str) -> None:
    """Write the job's tensors; `container` says which of the layout's containers they go to."""
    if job.layout.format == "safetensors":
        _write_safetensors(sink, job)
    else:
        _write_torch(sink, job, container)


def _write_safetensors(sink: Sink, job: Job) -> None:
    sink.write(dump_header(job.stored(), job.metadata))
    with ThreadPoolExecutor(job.threads) as makers:
        try:
            for info in job.tensors:
                # What finds how a tensor is read goes over it in small parts too: TIES took eight
                # times the CPU seconds on a busy machine where threads of torch waited at each.
                with one_thread():
                    read = job.ranged(info.name)
                if read is None:
                    _write_tensor(sink, _made(job, info))
                else:
                    _write_ranges(sink, read, info, makers, ahead=(job.threads - 1) * _AHEAD)
        finally:
            makers.shutdown(cancel_futures=True)


def _write_ranges(
    sink: Sink, read: Ranged, info: TensorInfo, makers: Executor, *, ahead: int
) -> None:
    """Write a tensor range by range; the last is written before the next tensor is begun."""
    made = (partial(_made_range, read, info, begin, end) for begin, end in _ranges(info.numel))
    with one_thread():
        for values in made_ahead(made, makers, most=ahead):
            _write_tensor(sink, values)


def _ranges(count: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(begin + _RANGE, count)) for begin in range(0, count, _RANGE))


def _write_tensor(sink: Sink, tensor: Tensor) -> None:
    """Write a tensor's bytes, and be the last to hold it before the next one is made."""
    if tensor.numel():
        flat = tensor.reshape(-1)  # one number keeps the step it was cut out with
        flat = flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
        sink.write(flat.view(torch.uint8).numpy().data)


def _write_torch(sink: Sink, job: Job, container: str) -> None:
    source = job.layout.containers.get(container)
    whole: Any = {}
    state: MutableMapping[str, Any] = whole if source is None else {}
    if source is not None:
        whole = load_container(source, ignoring=job.layout.ignoring).value
        if not job.layout.weightless:
            state = find_state_dict(whole, key=job.layout.key, path=source)
    parts = [(value_at(whole, part.path), part) for part in job.parts]
    _replace_tensors(state, dict(_own_tensors(job, job.layout.ties)), job.layout)
    for values, part in parts:
        for name, tensor in _own_tensors(part, {}):
            stored = part.stored[name]
            values[stored] = _like(tensor, values[stored])
    for path in job.layout.without if source is not None else ():
        del value_at(whole, path[:-1])[path[-1]]
    deferred = _Deferred(sink)
    torch.save(whole, cast("IO[bytes]", deferred))
    deferred.raise_first()


def _own_tensors(job: Job | PartJob, ties: Mapping[str, str]) -> Iterable[tuple[str, Tensor]]:
    """Make the tensors that are not aliases, each with a memory of its own."""
    planned = {info.name for info in job.tensors}
    memories: set[int] = set()
    for info in job.tensors:
        if ties.get(info.name) in planned:
            continue
        tensor = _made(job, info)
        storage = tensor.untyped_storage()
        # A view would bring all of its memory into the file; a shared one would tie two tensors.
        if storage.nbytes() != info.nbytes or storage.data_ptr() in memories:
            tensor = tensor.clone()
        memories.add(tensor.untyped_storage().data_ptr())
        yield info.name, tensor


def _replace_tensors(
    state: MutableMapping[str, Any], made: Mapping[str, Tensor], layout: Layout
) -> None:
    """Put the new tensors in the places of the old ones, and drop what was not made."""
    tied = {alias: made[first] for alias, first in layout.ties.items() if first in made}
    new = {layout.stored_name(name): tensor for name, tensor in {**tied, **made}.items()}
    old = tensors_in_state(state)
    for name in old.keys() - new.keys():
        del state[name]
    for name, tensor in new.items():
        state[name] = _like(tensor, old.get(name))


def _like(tensor: Tensor, old: Tensor | None) -> Tensor:
    """Return a parameter where there was one."""
    if isinstance(old, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, requires_grad=old.requires_grad)
    return tensor


class _Deferred:
    """A file for torch.save that keeps the first failure until torch.save is done.

    An exception that passes through torch's archive writer comes out as another one.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._failure: BaseException | None = None

    def write(self, data: memoryview) -> int:
        if self._failure is None:
            try:
                self._sink.write(data)
                self._sink.settle()
            except BaseException as failure:
                self._failure = failure
        return len(data)

    def flush(self) -> None:
        """Do nothing: torch.save asks for it, and the sink keeps nothing back."""

    def raise_first(self) -> None:
        if self._failure is not None:
            raise self._failure
