"""A checkpoint and its parts as sources that are averaged and permuted, and what else is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.parts import Fate, KeyPath, dotted_path
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import CheckpointError
from rebasin_cli.merging.sources import Finite
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor

# From the dotted path of a part beside the weights to its new tensors.
Parts = Callable[[str], TensorSource]


def moved_parts(
    model: Checkpoint, tensors: Sequence[BoundTensor], permutations: Permutations
) -> Parts:
    """Return the parts beside the weights of a model, in the order that the weights get."""
    return lambda key: Permuted(part_of(model, key, tensors), tensors, permutations)


def part_of(model: Checkpoint, key: str, tensors: Sequence[BoundTensor]) -> TensorSource:
    """Return a part beside the weights. Raises CheckpointError for one that cannot be permuted."""
    part = model.part(key)
    present = set(part.names())
    for tensor in tensors:
        missing = set(tensor.members) - present
        if missing and len(missing) < len(tensor.members):
            raise CheckpointError(
                f"the part {key!r} lacks {min(missing)!r}, which changes places with others",
                where=str(model.path),
                hint="--only-part leaves it as it is",
            )
    return part


def finite_part(
    model: Checkpoint, key: str, tensors: Sequence[BoundTensor], selection: Selection
) -> Finite:
    """Return a part beside the weights that refuses to give NaN or infinity to an average."""
    part = part_of(model, key, tensors)
    hint = "repair the checkpoint, or leave the part out with --only-part"
    return Finite(part, f"{model.path}, part {key}", hint, selection.selects)


def finite_model(model: Checkpoint, selection: Selection) -> Finite:
    """Return a model that refuses to give NaN or infinity to an average."""
    hint = "repair the checkpoint, or keep the tensor out of the average with --skip"
    return Finite(model, str(model.path), hint, selection.selects)


def plan_rest(
    layout: Layout,
    like: Checkpoint,
    models: Sequence[Checkpoint],
    selection: Selection,
    output: Output,
) -> tuple[Layout, Fate]:
    """Return the layout of a result made like one of some models, and what becomes of the rest.

    A part that all models have follows the weights. One that others lack is left out, since it
    would be that of one model; where there are no containers, all is.
    """
    rest = like.rest if selection.only_part is None else like.rest.without_parts
    keys = [part.key for part in rest.parts]
    if not layout.containers:
        return layout, Fate(dropped=(*keys, *map(dotted_path, rest.stale)))
    shared = [key for key in keys if all(_has(model, key, like) for model in models)]
    lone = [part.path for part in rest.parts if part.key not in shared]
    stale: Sequence[KeyPath] = () if output.drop_rest else rest.stale
    dropped = [*lone, *(rest.stale if output.drop_rest else ())]
    silent = rest.harmless if output.drop_rest else ()
    fate = Fate(tuple(shared), tuple(map(dotted_path, stale)), tuple(map(dotted_path, dropped)))
    return replace(layout, without=(*dropped, *silent)), fate


def _has(model: Checkpoint, key: str, like: Checkpoint) -> bool:
    """Return whether a model has all tensors of a part of another."""
    known = any(part.key == key for part in model.rest.parts)
    return known and set(like.part(key).names()) <= set(model.part(key).names())
