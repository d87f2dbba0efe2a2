"""Checkpoints written: tensors one at a time, in the form of another checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.parts import Fate
from rebasin_cli.checkpoint.writing.folder_writer import write_folder
from rebasin_cli.checkpoint.writing.publish import new_file
from rebasin_cli.checkpoint.writing.shard_writer import Job, PartJob, require_writable, write_shard
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.ranges import Ranged


@dataclass(frozen=True)
class Written:
    """What was written. bytes: of the weight files. sha256: as Checkpoint.sha256 has it.

    card: the model card that was written with it. fate: what became of the rest of the file that it
    is made like.
    """

    path: Path
    bytes: int
    sha256: str
    card: Path | None = None
    fate: Fate = field(default_factory=Fate)


def write_checkpoint(
    target: Path,
    tensors: Sequence[TensorInfo],
    produce: Callable[[str], Tensor],
    layout: Layout,
    *,
    metadata: Mapping[str, str] = MappingProxyType({}),
    overwrite: bool = False,
    beside: Mapping[str, str] = MappingProxyType({}),
    parts: Sequence[PartJob] = (),
    ranged: Callable[[str], Ranged | None] = lambda name: None,
    threads: int = 1,
) -> Written:
    """Write a checkpoint of this layout with these tensors, and no others, in their order.

    produce(name): called once for each tensor; a safetensors file needs one at a time in
    memory, a PyTorch file all of its own. Tensors that the layout ties to one that is written
    are written with it, whether listed or not, and are not asked for.
    metadata: for safetensors; a PyTorch file has no place for it.
    beside: texts of other files of a folder, by name, instead of those that are copied. parts: what
    is new beside the weights in the layout's only container. ranged(name): the same tensor in
    ranges, for a safetensors file; None: it is produced whole. threads: that make ranges.
    Raises UsageError if the target exists and may not be overwritten, MachineError where the
    disk refuses. After any exception the target is as it was.
    """
    job = Job(tuple(tensors), produce, layout, metadata, beside, tuple(parts), ranged, threads)
    require_writable(job)
    if layout.folder is not None:
        size, digest = write_folder(target, job, overwrite=overwrite)
        return Written(target, size, digest)
    with new_file(target, overwrite=overwrite) as sink:
        write_shard(sink, job, container="")
    return Written(target, sink.bytes, sink.sha256)


def write_tensors(
    target: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str], overwrite: bool
) -> Written:
    """Write tensors that are in memory as one safetensors file."""
    infos = [TensorInfo(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]
    layout = Layout(format="safetensors")
    return write_checkpoint(
        target, infos, tensors.__getitem__, layout, metadata=metadata, overwrite=overwrite
    )


def write_text(target: Path, text: str, *, overwrite: bool) -> Written:
    """Write a text file in UTF-8, whole or not at all; raises as `write_checkpoint` does."""
    with new_file(target, overwrite=overwrite) as sink:
        sink.write(text.encode())
    return Written(target, sink.bytes, sink.sha256)
