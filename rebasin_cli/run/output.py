"""Writing one result the way its target was planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from rebasin_cli.checkpoint import (
    CONFIG,
    Checkpoint,
    Written,
    configuration_in,
    write_checkpoint,
    write_tensors,
    write_text,
)
from rebasin_cli.errors import NotFiniteError
from rebasin_cli.merging import all_finite
from rebasin_cli.permutation import Permutation
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.targets import KEEP, Place, Target, output_infos
from rebasin_cli.tensors import TensorInfo, TensorSource

MASKS = "rebasin.masks"  # of pruned tensors, in the metadata: JSON, by the tensor's name


def write_model(
    source: TensorSource,
    like: Checkpoint,
    target: Target,
    options: Options,
    metadata: Mapping[str, str],
) -> Written:
    """Write the tensors of `source` in the form of `like`, one at a time."""
    infos = output_infos(like, target.layout, options)
    folder = target.layout.folder
    config = configuration_in(folder, options.dtype) if folder and options.dtype != KEEP else None
    # transformers refuses safetensors files without a format
    facts = {"format": "pt", **_carried(like.metadata), **metadata}
    return write_source(source, infos, target, facts, {CONFIG: config} if config else {})


def write_source(
    source: TensorSource,
    planned: Sequence[TensorInfo],
    target: Target,
    metadata: Mapping[str, str],
    beside: Mapping[str, str] = MappingProxyType({}),
) -> Written:
    """Write tensors of `source` as planned, one at a time, and the model card if there is one.

    beside: texts of other files of a folder.
    """
    infos = {info.name: info for info in planned}
    card = target.card if target.text else None
    inside = card is not None and target.layout.folder is not None

    def produce(name: str) -> Tensor:
        return _converted(source.load(name), infos[name], target)

    with folder_for(target.place):
        written = write_checkpoint(
            target.path,
            tuple(infos.values()),
            produce,
            target.layout,
            metadata=metadata,
            overwrite=target.place.overwrite,
            beside={**beside, card.path.name: target.text} if card and inside else beside,
        )
        if card and not inside:
            write_text(card.path, target.text, overwrite=card.overwrite)
    return replace(written, card=card.path) if card else written


def _carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what a result takes over of its model's metadata: masks fit that one alone."""
    return {key: value for key, value in metadata.items() if key != MASKS}


def _converted(tensor: Tensor, info: TensorInfo, target: Target) -> Tensor:
    """Return a tensor in the dtype it is written in. Raises NotFiniteError if it overflows."""
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


def write_permutations(
    place: Place, permutations: Mapping[str, Permutation], metadata: Mapping[str, str]
) -> Written | None:
    """Write a permutation file: one int32 tensor for each group. None if an old one stays."""
    if place.skip:
        return None
    tensors = {name: permutation.index.int().cpu() for name, permutation in permutations.items()}
    with folder_for(place):
        return write_tensors(place.path, tensors, metadata=metadata, overwrite=place.overwrite)


@contextmanager
def folder_for(place: Place) -> Iterator[None]:
    """Make the folder of a place if the plan says so, and unmake it if nothing came of it."""
    made = place.folder is not None and not place.folder.exists()
    if place.folder is not None:
        place.folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if made and place.folder is not None and not any(place.folder.iterdir()):
            place.folder.rmdir()
        raise
