"""How much memory making a result and writing it takes, from headers alone.

The interpreter and its packages are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    names = [(model, name) for model in models for name in model.names()]
    if layout.format == "safetensors" and all(ranges_of(*one) is not None for one in names):
        return STREAMED
    return written_bytes(layout, tensors) + mean_bytes(models)


def mean_bytes(models: Sequence[TensorSource]) -> int:
    """Return the bytes of the mean of one tensor, the largest of some models."""
    sizes = (info.nbytes for model in models for info in infos(model).values())
    read = max(sizes, default=0)
    numbers = max(map(largest_size, models))
    return SUM * numbers + max(ROUNDED * numbers, read)


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
