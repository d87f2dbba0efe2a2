"""Writing one result the way its target was planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor

from rebasin_cli.checkpoint.configuration import CONFIG, configuration_in
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.shard_writer import PartJob
from rebasin_cli.checkpoint.writing.writer import (
    Written,
    write_checkpoint,
    write_tensors,
    write_text,
)
from rebasin_cli.errors import CheckpointError, NotFiniteError
from rebasin_cli.files.part_sources import Parts
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.targets import KEEP, Target, output_info, output_infos
from rebasin_cli.merging.whole_numbers import converted_exactly, number_kind
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import TensorInfo, TensorSource, dtype_name
from rebasin_cli.tensors.numbers import all_finite
from rebasin_cli.tensors.ranges import Ranged, ranges_of

MASKS = "rebasin.masks"  # of pruned tensors, in the metadata: JSON, by the tensor's name


@dataclass(frozen=True)
class Result:
    """What a command made. like: the checkpoint whose form it gets. facts: its metadata.

    parts: what the parts beside the weights become; None: they stay, and are stale. jobs: what is
    new in the same file besides. others: tensors that it has, and like has not, or in another
    shape. threads: that make its tensors. settings: what its config.json says otherwise.
    """

    source: TensorSource
    like: Checkpoint
    facts: Mapping[str, str]
    parts: Parts | None = None
    jobs: Sequence[PartJob] = ()
    others: Mapping[str, TensorInfo] = field(default_factory=dict)
    threads: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_model(result: Result, target: Target, selection: Selection, output: Output) -> Written:
    """Write the tensors of a result in the form of what it is like, one at a time."""
    like, parts = result.like, result.parts
    infos = _planned(result, target, selection, output)
    if parts is None:
        target = replace(target, fate=target.fate.without_parts)
    parts_jobs = _part_jobs(result, target, lambda info: output_info(info, selection, output))
    jobs = [*parts_jobs, *result.jobs]
    config = _configuration(result, target, selection, output)
    # transformers refuses safetensors files without a format
    facts = {"format": "pt", **_carried(like.metadata), **result.facts}
    return write_source(
        result.source, infos, target, facts, beside=config, parts=jobs, threads=result.threads
    )


def _planned(
    result: Result, target: Target, selection: Selection, output: Output
) -> tuple[TensorInfo, ...]:
    """Return the tensors to write: those of the checkpoint it is like, or the result's own."""
    infos = output_infos(result.like, target.layout, selection, output)
    others = {n: output_info(info, selection, output) for n, info in result.others.items()}
    return tuple({**{info.name: info for info in infos}, **others}.values())


def _configuration(
    result: Result, target: Target, selection: Selection, output: Output
) -> dict[str, str]:
    """Return the text of the result's config.json by its name, if it differs from the model's."""
    folder, dtype = target.layout.folder, None if output.dtype == KEEP else output.dtype
    untied, settings = bool(result.like.apart), result.settings
    if folder is None or not (dtype or selection.dequantize or untied or settings):
        return {}
    coded = not selection.dequantize
    text = configuration_in(folder, dtype, coded=coded, untied=untied, settings=settings)
    return {CONFIG: text} if text else {}


def _part_jobs(
    result: Result, target: Target, planned: Callable[[TensorInfo], TensorInfo]
) -> list[PartJob]:
    """Return the jobs for other sets of weights. planned: info of an input -> of the output."""
    if result.parts is None:
        return []
    return [
        _part_job(result.like, result.parts(key), key, target, planned) for key in target.fate.parts
    ]


def _part_job(
    like: Checkpoint,
    source: TensorSource,
    key: str,
    target: Target,
    planned: Callable[[TensorInfo], TensorInfo],
) -> PartJob:
    own = like.part(key)
    infos = {name: planned(own.info(name)) for name in own.names()}
    path = next(part.path for part in like.rest.parts if part.key == key)
    return PartJob(
        path,
        tuple(infos.values()),
        lambda name: _converted(source.load(name), infos[name], target),
        own.stored,
    )


def write_source(
    source: TensorSource,
    planned: Sequence[TensorInfo],
    target: Target,
    metadata: Mapping[str, str],
    *,
    beside: Mapping[str, str] = MappingProxyType({}),
    parts: Sequence[PartJob] = (),
    threads: int = 1,
) -> Written:
    """Write tensors of `source` as planned, one at a time, and the model card if there is one.

    beside: texts of other files of a folder. parts: what is new beside the weights. threads: that
    make ranges of tensors.
    """
    infos = {info.name: info for info in planned}
    card = target.card if target.text else None
    inside = card is not None and target.layout.folder is not None

    def produce(name: str) -> Tensor:
        return _converted(source.load(name), infos[name], target)

    def in_ranges(name: str) -> Ranged | None:
        read = ranges_of(source, name)
        if read is None and isinstance(source, Permuted):
            read = source.ranged_from_whole(name)
        return read and partial(_converted_range, read, infos[name], target)

    with folder_for(target.place):
        written = write_checkpoint(
            target.path,
            tuple(infos.values()),
            produce,
            target.layout,
            metadata=metadata,
            overwrite=target.place.overwrite,
            beside={**beside, card.path.name: target.text} if card and inside else beside,
            parts=parts,
            ranged=in_ranges,
            threads=threads,
        )
        if card and not inside:
            write_text(card.path, target.text, overwrite=card.overwrite)
    return replace(written, card=card.path if card else None, fate=target.fate)


def _carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what a result takes over of its model's metadata: masks fit that one alone."""
    return {key: value for key, value in metadata.items() if key != MASKS}


def _converted(tensor: Tensor, info: TensorInfo, target: Target) -> Tensor:
    """Return a tensor in the dtype it is written in.

    Raises NotFiniteError if it overflows, CheckpointError if whole numbers would change.
    """
    if number_kind(tensor.dtype) != number_kind(info.dtype) or number_kind(info.dtype) == "whole":
        return _exactly(tensor, info, target)
    result = tensor.to(info.dtype)
    changed = result.dtype != tensor.dtype and info.floating
    if changed and not all_finite(result) and all_finite(tensor):
        raise NotFiniteError(
            f"tensor {info.name!r} does not fit {str(info.dtype).removeprefix('torch.')}",
            where=str(target.path),
            detail=f"its largest value is {float(tensor.abs().max()):.4g}",
            hint="choose another --dtype",
        )
    return result


def _converted_range(
    read: Ranged, info: TensorInfo, target: Target, begin: int, end: int
) -> Tensor:
    try:
        return _converted(read(begin, end), info, target)
    except NotFiniteError:
        _converted(read(0, info.numel), info, target)  # tells of the whole tensor's largest value
        raise


def _exactly(tensor: Tensor, info: TensorInfo, target: Target) -> Tensor:
    result = converted_exactly(tensor, info.dtype)
    if result is None:
        raise CheckpointError(
            f"tensor {info.name!r} is {dtype_name(tensor.dtype)} in one model, and "
            f"{dtype_name(info.dtype)}, which cannot hold its numbers, in another",
            where=str(target.path),
            hint="--skip GLOB takes that of the reference as it is",
        )
    return result


def write_tensors_to(
    place: OutputPlace, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Written:
    """Write tensors that are in memory as one safetensors file."""
    with folder_for(place):
        return write_tensors(place.path, tensors, metadata=metadata, overwrite=place.overwrite)


@contextmanager
def folder_for(place: OutputPlace) -> Iterator[None]:
    """Make the folder of a place if the plan says so, and unmake it if nothing came of it."""
    made = place.folder is not None and not place.folder.exists()
    if place.folder is not None:
        place.folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if made and place.folder and place.folder.is_dir() and not any(place.folder.iterdir()):
            place.folder.rmdir()


@contextmanager
def folders_for(places: Iterable[OutputPlace]) -> Iterator[None]:
    """Make the folders of several places, which are then there for whoever writes into them."""
    with ExitStack() as made:
        for place in places:
            made.enter_context(folder_for(place))
        yield
