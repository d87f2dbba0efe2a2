"""Which weights of a model are the smallest, exactly, without holding more than one tensor.

The magnitude of a floating number grows with its bits, the sign left out, read as an integer. The
n-th smallest of all weights is found 16 of these bits at a time: a pass over the tensors counts how
many weights have each value of the next 16 bits, and the count says which value the n-th has.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rebasin_cli.merging.order_statistics import kth_code
from rebasin_cli.tensors import Derived, InMemory, TensorSource

CHUNK = 1 << 22  # weights looked at together: bounds the memory beside the tensor itself


@dataclass(frozen=True)
class Threshold:
    """What is pruned of one tensor: all below a magnitude, and the first `ties` that equal it.

    key: the magnitude as `magnitude_keys` has it, at `width` bits.
    """

    key: int
    ties: int
    width: int

    @property
    def magnitude(self) -> float:
        whole = torch.tensor([self.key])
        number = whole.int().view(torch.float32) if self.width == 32 else whole.view(torch.float64)
        return float(number)

    def keeps(self, tensor: Tensor) -> Tensor:
        """Return where a tensor keeps its values: bool, of its shape."""
        left, kept = self.ties, []
        for keys in magnitude_keys(tensor, self.width):
            equal = keys == self.key
            first = equal & (equal.cumsum(0) <= left)
            left -= int(first.sum())
            kept.append((keys >= self.key) & ~first)
        return torch.cat(kept).reshape(tensor.shape) if kept else tensor.bool()


Thresholds = Callable[[TensorSource, Sequence[str], float], Mapping[str, Threshold]]


class Rule(Protocol):
    """A rule for which weights of a tensor stay, given a value for each: the largest do."""

    def keeps(self, tensor: Tensor, /) -> Tensor:
        """Return where a tensor of values keeps them: bool, of its shape."""


class Zeroed(Derived):
    """A TensorSource with zeros where rules say so; all else is that of another source.

    values: what the rules look at; None: the tensors themselves.
    """

    def __init__(
        self,
        source: TensorSource,
        rules: Mapping[str, Rule],
        values: TensorSource | None = None,
    ) -> None:
        super().__init__(source)
        self._rules, self._values = rules, values

    def load(self, name: str) -> Tensor:
        tensor = super().load(name)
        if name not in self._rules:
            return tensor
        values = tensor if self._values is None else self._values.load(name)
        return torch.where(self._rules[name].keeps(values), tensor, torch.zeros_like(tensor))


def global_thresholds(
    source: TensorSource, names: Sequence[str], sparsity: float
) -> dict[str, Threshold]:
    """Return the thresholds that remove the smallest weights of all tensors together.

    Exactly round(sparsity * weights) of them; of equal ones the first go, in the order of `names`.
    """
    width = 64 if any(source.info(name).dtype.itemsize >= 8 for name in names) else 32
    total = sum(source.info(name).numel for name in names)
    key, left = _smallest(source, names, round(sparsity * total), width)
    thresholds: dict[str, Threshold] = {}
    for name in names:
        equal = sum(int((k == key).sum()) for k in magnitude_keys(source.load(name), width))
        thresholds[name] = Threshold(key, min(equal, left), width)
        left -= thresholds[name].ties
    return thresholds


def layer_thresholds(
    source: TensorSource, names: Sequence[str], sparsity: float
) -> dict[str, Threshold]:
    """Return the thresholds that remove the same share of each tensor by itself."""
    thresholds: dict[str, Threshold] = {}
    for name in names:
        alone = InMemory({name: source.load(name)})
        thresholds |= global_thresholds(alone, [name], sparsity)
    return thresholds


# By the names of --method.
METHODS: Mapping[str, Thresholds] = {
    "magnitude": global_thresholds,
    "layer-magnitude": layer_thresholds,
}


def magnitude_keys(tensor: Tensor, width: int) -> Iterator[Tensor]:
    """Yield the magnitudes of a tensor as int64 in the same order, piece by piece, row-major.

    width: 32, or 64 if a float64 is to be compared. Every narrower type goes into them exactly.
    """
    wide, bits = (torch.float32, torch.int32) if width == 32 else (torch.float64, torch.int64)
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        chunk = flat[start : start + CHUNK]
        sizes = chunk.abs() if chunk.is_complex() else chunk
        yield sizes.to(wide).abs().view(bits).long()


def _smallest(
    source: TensorSource, names: Sequence[str], count: int, width: int
) -> tuple[int, int]:
    """Return the key of the count-th smallest weight, and how many of its equals go with it."""
    if not count:
        return 0, 0

    def keys() -> Iterator[Tensor]:
        for name in names:
            yield from magnitude_keys(source.load(name), width)

    return kth_code(keys, count, width)


_PLACES = (128, 64, 32, 16, 8, 4, 2, 1)  # the first weight is the highest bit, as numpy packs


def pack_mask(mask: Tensor) -> str:
    """Return a mask as text: its bits in row-major order, eight a byte, zlib, base64.

    The last byte is filled up with zeros. In numpy the way back is
    `np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8))`.
    """
    flat = mask.reshape(-1)
    bits = torch.nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).view(-1, 8)
    whole = (bits * torch.tensor(_PLACES, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    return base64.b64encode(zlib.compress(whole.numpy().tobytes())).decode()
