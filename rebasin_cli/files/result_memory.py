"""How much memory making a result and writing it takes, from headers alone.

The interpreter and its packages are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import TensorInfo, TensorSource, infos
from rebasin_cli.tensors.ranges import ranges_of

# Ranges on their way to the disk, digests, and what is imported meanwhile: 10 to 18 MB.
STREAMED = 14_000_000
SUM, ROUNDED = 8, 4  # bytes of a number: in float64, and as it is returned


def stored_bytes(source: TensorSource) -> int:
    """Return the bytes of all tensors of a source."""
    return sum(info.nbytes for info in infos(source).values())


def largest_size(source: TensorSource) -> int:
    """Return how many numbers the largest tensor of a source has."""
    return max((info.reals for info in infos(source).values()), default=0)


def written_bytes(layout: Layout, tensors: Iterable[TensorInfo]) -> int:
    """Return the bytes that writing tensors takes, besides making one; .pt holds all of them."""
    whole = 0 if layout.format == "safetensors" else sum(info.nbytes for info in tensors)
    return STREAMED + whole


def averaged_bytes(
    models: Sequence[TensorSource], layout: Layout, tensors: Iterable[TensorInfo]
) -> int:
    """Return the bytes of writing tensors of the mean of models, which are read as it is made."""
    whole = layout.format != "safetensors"
    made = {n for m in models for n in m.names() if whole or ranges_of(m, n) is None}
    return written_bytes(layout, tensors) + mean_bytes(models, made)


def mean_bytes(models: Sequence[TensorSource], names: Set[str] | None = None) -> int:
    """Return the bytes of the mean of one tensor, the largest of some models.

    names: of those that are made whole; None: all.
    """
    made = ((m, n) for m in models for n in m.names() if names is None or n in names)
    return max((_mean_of(model, name) for model, name in made), default=0)


def _mean_of(model: TensorSource, name: str) -> int:
    info = model.info(name)
    return SUM * info.reals + max(ROUNDED * info.reals, held_bytes(model, name))


def held_bytes(model: TensorSource, name: str) -> int:
    """Return the bytes that a tensor takes while it is made: as it was, and in other orders.

    Of one that is reordered as it is read, the tensor of the model before is there too.
    """
    copies = model.copies(name) if isinstance(model, Permuted) else 0
    return model.info(name).nbytes * (copies + 1)


def reordered_bytes(moved: Permuted, layout: Layout) -> int:
    """Return the bytes that reordering a model's tensors takes at most, besides writing them."""
    ranged = layout.format == "safetensors"
    copies = {
        name: 1 if ranged and moved.in_rows(name) else moved.copies(name) - (not ranged)
        for name in moved.names()
        if moved.copies(name)
    }
    return max((moved.info(name).nbytes * count for name, count in copies.items()), default=0)


def run_bytes(source: TensorSource) -> int:
    """Return the bytes of a model that is run with a checkpoint: it is in float32, or wider."""
    known = infos(source).values()
    return sum(i.numel * max(ROUNDED if i.floating else 0, i.dtype.itemsize) for i in known)
