"""The best map of each class for given similarities: the maximum over maps M of <M, N>.

N[a, b] is the inner product of unit a of the reference and unit b of the other model, summed over
all that they are part of; <A, M B> = <M, N> for every linear map M of the units of B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rebasin_cli.matching.assignment.linear import assign_all
from rebasin_cli.spec.language.model import KEEPING_MEAN, SIGNED

WIDE = 64  # units, below which singular vectors are as fast
ORTHOGONAL_TO = 1e-12  # entries of X' X - I, in float64
STEPS = 100  # a value of 1e-12 is one after 70
LOOK = 5  # steps between two looks, for each of which the device has to be waited for

ClassSolver = Callable[[Tensor], Tensor]  # (batch, n, n) similarities -> (batch, n, n) matrices


def polar(similarities: Tensor) -> Tensor:
    """Return the orthogonal matrices nearest to similarities: U V' of their singular vectors.

    Orthogonal Procrustes (Schoenemann 1966): <U S V', M> is at most the sum of S, at M = U V'.
    """
    if similarities.shape[-1] == 1:
        return _signs(similarities)
    if similarities.is_cuda and similarities.shape[-1] >= WIDE:
        found = newton_schulz(similarities)
        if bool(_departure(found) < ORTHOGONAL_TO):
            return found
    u, _, vt = torch.linalg.svd(similarities)
    factor: Tensor = u @ vt
    return factor


def newton_schulz(similarities: Tensor) -> Tensor:
    """Return the polar factor by products alone: X <- 1.5 X - .5 X X' X, whose values go to one.

    For GPUs, where products are fast and singular vectors are not (Bjorck and Bowie 1971). The
    values of X begin at most at one: |N| is at most the root of its largest row and column sums.
    A singular matrix has no limit that is orthogonal: whoever asks has to look.
    """
    sizes = similarities.abs()
    rows, columns = sizes.sum(-1).amax(-1), sizes.sum(-2).amax(-1)
    bound = (rows * columns).sqrt().clamp_min(torch.finfo(similarities.dtype).tiny)
    x = similarities / bound[..., None, None]
    for step in range(STEPS):
        if step % LOOK == LOOK - 1 and bool(_departure(x) < ORTHOGONAL_TO):
            break
        x = 1.5 * x - 0.5 * x @ (x.mT @ x)
    return x


def _departure(x: Tensor) -> Tensor:
    """Return the largest entry of |X' X - I|."""
    one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return (x.mT @ x - one).abs().amax()


def polar_keeping_mean(similarities: Tensor) -> Tensor:
    """Return the best orthogonal matrices that map the vector of ones to itself.

    What LayerNorm allows of a stream that is centred. Projected to the complement of the ones,
    which a folded head may not be free of, N has no part along them; the added one, as large as N
    itself, makes its sign +1 whatever rounding does (N has rank n - 1 and leaves it open).
    """
    centred = similarities - similarities.mean(-1, keepdim=True)
    centred = centred - centred.mean(-2, keepdim=True)
    size = similarities.shape[-1]
    scale = centred.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(centred.dtype).tiny)
    return polar(centred + scale / size)


def half_split_phases(similarities: Tensor) -> Tensor:
    """Return the best complex numbers of modulus 1, one for each pair (i, i + n/2), as matrices.

    What rotary positions allow: rotations of a pair by one angle commute (arXiv 2606.17830).
    """
    half = similarities.shape[-1] // 2
    first = torch.arange(half, device=similarities.device)
    return _phases(similarities, first, first + half)


def interleaved_phases(similarities: Tensor) -> Tensor:
    """Return the same as `half_split_phases`, for pairs (2i, 2i + 1)."""
    even = torch.arange(0, similarities.shape[-1], 2, device=similarities.device)
    return _phases(similarities, even, even + 1)


def _phases(n: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """<M, N> of M = [[re, -im], [im, re]] is re (N11 + N22) + im (N21 - N12)."""
    c = torch.complex(
        n[..., first, first] + n[..., second, second],
        n[..., second, first] - n[..., first, second],
    )
    c = torch.where(c.abs() > 0, c / c.abs(), torch.ones_like(c))
    found = torch.zeros_like(n)
    found[..., first, first] = found[..., second, second] = c.real
    found[..., second, first], found[..., first, second] = c.imag, -c.imag
    return found


def signed_orders(similarities: Tensor) -> Tensor:
    """Return the best permutations with a sign for each unit, as matrices."""
    if similarities.shape[-1] == 1:  # of which there are as many as hidden units
        return _signs(similarities)
    return orders(similarities.abs()) * _signs(similarities)


def _signs(similarities: Tensor) -> Tensor:
    return torch.where(similarities < 0, -1.0, 1.0).to(similarities.dtype)


def orders(similarities: Tensor) -> Tensor:
    """Return the best permutations, as matrices."""
    index = assign_all(similarities, {})
    found = torch.zeros_like(similarities)
    return found.scatter_(-1, index.to(found.device)[..., None], 1.0)


SOLVERS: Mapping[str, ClassSolver] = {
    "permutation": orders,
    SIGNED: signed_orders,
    "rotary": half_split_phases,
    "rotary-interleaved": interleaved_phases,
    "orthogonal": polar,
    KEEPING_MEAN: polar_keeping_mean,
}
