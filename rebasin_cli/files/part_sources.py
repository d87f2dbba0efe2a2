"""Tensor sources of a checkpoint and its parts, as they are averaged and permuted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import CheckpointError
from rebasin_cli.merging.sources import Finite
from rebasin_cli.options.selection import Selection
from rebasin_cli.permutation import Permutations, Permuted
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


def finite(model: Checkpoint, selection: Selection) -> Finite:
    """Return a model that refuses to give NaN or infinity to an average."""
    hint = "repair the checkpoint, or keep the tensor out of the average with --skip"
    return Finite(model, str(model.path), hint, selection.selects)
