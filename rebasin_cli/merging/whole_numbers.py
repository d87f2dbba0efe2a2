"""Tensors that have no mean: integers, truth values, and what is not of one kind in all models.

Half of two counters, of two token ids or of two codes of quantised weights is not another one of
them. Such tensors have to be equal, but for single counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.compare import in_widest, same_bits


def number_kind(dtype: torch.dtype) -> str:
    """Return what numbers of a dtype are: `real`, `complex` or `whole`."""
    if dtype.is_complex:
        return "complex"
    return "real" if dtype.is_floating_point else "whole"


def has_mean(name: str, sources: Iterable[TensorSource]) -> bool:
    """Return whether a tensor that all sources have can be averaged: all real, or all complex.

    Widths may differ: means are taken in float64 (see `mean`).
    """
    kinds = {number_kind(source.info(name).dtype) for source in sources}
    return len(kinds) == 1 and kinds != {"whole"}


def in_all(sources: Iterable[TensorSource]) -> frozenset[str]:
    """Return the names that all sources have."""
    first, *others = (frozenset(source.names()) for source in sources)
    return first.intersection(*others)


def check_equal_where_no_mean(
    sources: Sequence[TensorSource], weights: Sequence[float], selects: Callable[[str], bool]
) -> None:
    """Raise CheckpointError, naming all of them, for tensors that differ and have no mean.

    Single numbers may differ: counters, of which the result has one. So may all tensors where one
    source alone has a weight.
    """
    first, *others = [source for source, weight in zip(sources, weights, strict=True) if weight]
    shared = in_all([first, *others])
    names = [
        name
        for name in first.names()
        if others
        and name in shared
        and selects(name)
        and first.info(name).numel > 1
        and not has_mean(name, [first, *others])
        and not all(_same_numbers(first.load(name), other.load(name)) for other in others)
    ]
    if names:
        raise CheckpointError(
            "tensors of whole numbers differ between the models, and have no average",
            detail="\n".join(names),
            hint="--skip GLOB takes those of the reference as they are",
        )


def converted_exactly(tensor: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return the same numbers in another dtype, None if that cannot hold them.

    Bits are compared as well as numbers, since -0.0 == 0.0.
    """
    if tensor.is_complex() != dtype.is_complex:
        return None
    result = tensor.to(dtype)
    # there and back: signs of 64-bit integers survive that, their values in between do not
    back = same_bits(result.to(tensor.dtype), tensor)
    return result if back and torch.equal(in_widest(result), in_widest(tensor)) else None


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    found = converted_exactly(a, b.dtype)
    return found is not None and same_bits(found, b)
