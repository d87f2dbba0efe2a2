"""From matches of pairs, stacked in one matrix, to an estimate of one frame for all models.

W (k, n, k, n) holds in [a, :, b, :] what it is worth to match each unit of model a with each of
model b. Where all matches agree, W = U U' with U = [P_0; ...; P_k] of permutations, stacked. Each
method returns some U (k, n, n) that is near to that up to a rotation, which cancels in
U_a U_b'; rounding that to permutations is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

STEPS = 100
TURNED = 1e-3  # of an axis, below which the sparsest rotation counts as found
POSITIVE = 1e-3  # what factors begin with at least: a factor of 0 would stay 0


def spectral(matrix: Tensor) -> Tensor:
    """Return the n leading eigenvectors.

    Source: Pachauri, Kondor, Singh 2013, "Solving the multi-way matching problem by permutation
    synchronization", section 3. eigh puts the largest last; their own order and signs are a
    rotation too.
    """
    count, size = matrix.shape[:2]
    vectors: Tensor = torch.linalg.eigh(_square(matrix)).eigenvectors[:, -size:]
    return vectors.reshape(count, size, size)


def stiefel(matrix: Tensor) -> Tensor:
    """Return the basis of the leading eigenvectors' space that is nearest to being sparse.

    Source: Bernard, Cremers, Thunberg 2021 (arXiv 2110.00053), "Sparse quadratic optimisation over
    the Stiefel manifold", algorithm 1: a step of orthogonal iteration on W, turned towards larger
    sums of U^3, which for columns of length 1 are largest where they have a single entry.
    The random start is the same for every matrix of a size.
    """
    count, size = matrix.shape[:2]
    w = _square(matrix)
    eye = torch.eye(size, dtype=w.dtype)
    generator = torch.Generator().manual_seed(0)
    u: Tensor = torch.linalg.qr(torch.randn(len(w), size, dtype=w.dtype, generator=generator)).Q
    for _ in range(STEPS):
        slope = u.T @ u.square()
        turn = slope - slope.T
        largest = float(turn.abs().max())
        if largest < TURNED:
            break
        q, r = torch.linalg.qr(w @ u @ (eye + turn / largest))
        u = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return u.reshape(count, size, size)


def nmf(matrix: Tensor) -> Tensor:
    """Return factors U >= 0 that bring U U' near to the matrix.

    Source: Bernard, Thunberg, Goncalves, Theobalt 2019 (arXiv 1803.06320): factors without
    negative entries, from the eigenvectors turned until they nearly are. Deviations: the turn is
    the first model's share, transposed, which for whole permutations does what their search for
    rows does; the factor is symmetric, with the steps of Ding, He, Simon 2005, "On the equivalence
    of nonnegative matrix factorization and spectral clustering", section 4 (their beta 1/2).
    """
    count, size = matrix.shape[:2]
    w, vectors = _square(matrix).clamp(min=0), spectral(matrix)
    # k times: of k models each holds a kth of every eigenvector's square
    u = (count * vectors @ vectors[0].T).reshape(count * size, size).clamp(min=POSITIVE)
    for _ in range(STEPS):
        u = u * (0.5 + 0.5 * (w @ u) / (u @ (u.T @ u)))
    return u.reshape(count, size, size)


def _square(matrix: Tensor) -> Tensor:
    side = matrix.shape[0] * matrix.shape[1]
    return matrix.reshape(side, side)


SYNC_METHODS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "spectral": spectral,
    "stiefel": stiefel,
    "nmf": nmf,
}
