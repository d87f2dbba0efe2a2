"""Linear assignment problems: similarity in, permutation out.

max over orders p of sum over i of S[i, p[i]], exactly, in O(n^3): lapx where it is installed,
scipy elsewhere. Both are exact; of several best assignments they may take another one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.tensors import dtype_name

try:
    from rebasin_cli.matching.assignment.lapx_solver import columns
except ImportError:
    from rebasin_cli.matching.assignment.scipy_solver import columns


def assign(similarity: Tensor, current: Tensor | None = None) -> Tensor:
    """Return the index p, int64 (n,), that maximises `similarity[i, p[i]]` summed over i.

    similarity: (n, n), rows are reference units, columns other units; larger is better.
    current: (n,) an assignment to keep where keeping it costs no more than one rounding
    step of the largest entry, so that units without a preference (dead ones) stay in place.
    Exact, on the CPU, in float64. Raises NotFiniteError where similarities have overflowed.
    Source: Ainsworth, Hayase, Srinivasa 2023, section 3.2.

    >>> assign(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [2.0, 1.0, 0.0]]))
    tensor([1, 2, 0])
    """
    return assign_all(similarity[None], {} if current is None else {0: current})[0]


def assign_all(similarities: Tensor, current: Mapping[int, Tensor]) -> Tensor:
    """Return the indices, int64 (b, n), that solve b problems of one size, each as `assign` does.

    similarities: (b, n, n). current: by the number of a problem, for those that have one.
    """
    # scipy's own maximize=True would allocate another copy of the matrix.
    cost = np.negative(similarities.cpu().numpy(), dtype=np.float64)
    if not cost.size:
        return torch.zeros(cost.shape[:2], dtype=torch.int64)
    largest = np.maximum(cost.max((1, 2)), -cost.min((1, 2)))
    if not np.isfinite(largest).all():
        raise NotFiniteError(
            f"values so large that similarities overflow {dtype_name(similarities.dtype)}",
            hint="mostly a sign of training that diverged; what is stored in float64 is compared "
            "in float64",
        )
    # One rounding step of the largest entry: a difference below it is taken for rounding.
    steps = np.where(largest > 0, torch.finfo(similarities.dtype).eps * largest, 1.0)
    # What a whole row or column has in common changes no optimum, but the solver, which starts
    # from prices of zero, takes ten times as long to find it out (similarities of descriptors).
    cost -= cost.mean(2, keepdims=True)
    cost -= cost.mean(1, keepdims=True)
    # A discount for each pair in place, not a comparison afterwards: it also keeps single dead
    # units where they are while the others move.
    if current:
        which = np.array(list(current))[:, None]
        kept = torch.stack(list(current.values())).cpu().numpy()
        cost[which, np.arange(kept.shape[1]), kept] -= steps[which]
    found = np.stack([columns(one) for one in cost])
    return torch.from_numpy(found.astype(np.int64))
