"""Blocks of the empirical Fisher along the rows of a weight: their inverse, and what it says.

Source: WoodFisher (arXiv 2004.14340), equations 3 to 5. With the gradients g_n of N examples,
F = lambda I + 1/N sum g g'; removing the weight w_q costs w_q^2 / (2 [F^-1]_qq), and the others
then do best with w - w_q / [F^-1]_qq F^-1 e_q. The paper updates the inverse gradient by gradient
(Woodbury); here the sum is kept and inverted once, which is the same matrix with less rounding, and
lets lambda depend on the sum. The paper cuts the flattened weight every so many entries; here
blocks end with a row, that is with what one unit reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn.functional import pad

WORD = 8  # bytes of float64, in which all of this is computed
PIECE = 1 << 22  # elements that are worked on together: bounds the memory beside them


@dataclass(frozen=True)
class BlockCut:
    """How a weight of some rows is cut: each row into `per_row` blocks of `width` entries.

    A row that these exceed is filled up with zeros, which stay apart: no gradient joins them.
    """

    rows: int
    length: int
    per_row: int

    @classmethod
    def of(cls, shape: tuple[int, ...], block_size: int) -> BlockCut:
        """Return the cut into equal blocks of at most a size. Rows lie along the first axis."""
        length = prod(shape[1:])
        return cls(shape[0], length, max(1, ceil(length / block_size)))

    @property
    def width(self) -> int:
        return ceil(self.length / self.per_row)

    @property
    def nbytes(self) -> int:
        """The bytes of one row's blocks."""
        return self.per_row * self.width**2 * WORD

    def blocks(self, values: Tensor) -> Tensor:
        """Return some whole rows, (n, rows, length), as (n, blocks, width), float64."""
        filled = pad(values.double(), (0, self.per_row * self.width - self.length))
        return filled.reshape(len(values), -1, self.width)

    def values(self, blocks: Tensor) -> Tensor:
        """Return the entries of some whole rows, (rows, length), from their blocks."""
        return blocks.reshape(-1, self.per_row * self.width)[:, : self.length]


def add_gradients(sums: Tensor, gradients: Tensor) -> None:
    """Add the sum of g g' to blocks (blocks, width, width).

    gradients: (examples, blocks, width).
    """
    sums.baddbmm_(gradients.permute(1, 2, 0), gradients.permute(1, 0, 2))


def invert_blocks(blocks: Tensor, damping: float) -> None:
    """Put the inverse of F + damping I in the place of each F, (blocks, width, width)."""
    step = max(1, PIECE // prod(blocks.shape[1:]))
    for start in range(0, len(blocks), step):
        piece = blocks[start : start + step]
        piece.diagonal(dim1=1, dim2=2).add_(damping)
        piece.copy_(torch.cholesky_inverse(torch.linalg.cholesky(piece)))


def saliencies(weights: Tensor, inverse: Tensor) -> Tensor:
    """Return what removing each weight costs, (blocks, width), as the weights."""
    return weights.square() / (2 * inverse.diagonal(dim1=1, dim2=2))


def update_weights(weights: Tensor, keeps: Tensor, inverse: Tensor) -> Tensor:
    """Return weights (blocks, width) after those that are not kept went: zeros in their places.

    The updates of single weights are added up, as in the paper (section 4), although each is best
    only where it is alone.
    """
    removed = torch.where(keeps, 0.0, weights / inverse.diagonal(dim1=1, dim2=2))
    moved = weights - (inverse @ removed.unsqueeze(-1)).squeeze(-1)
    return torch.where(keeps, moved, 0.0)
