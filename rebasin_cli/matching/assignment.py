"""One linear assignment problem: similarity in, permutation out. The only caller of scipy."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(similarity: Tensor, current: Tensor | None = None) -> Tensor:
    """Return the index p, int64 (n,), that maximises `similarity[i, p[i]]` summed over i.

    similarity: (n, n), rows are reference units, columns other units; larger is better.
    current: (n,) an assignment to keep where keeping it costs no more than one rounding
    step of the largest entry, so that units without a preference (dead ones) stay in place.
    Exact, on the CPU, in float64. Source: Ainsworth, Hayase, Srinivasa 2023, section 3.2.
    """
    # scipy's own maximize=True would allocate another copy of the matrix.
    cost = -similarity.double().cpu().numpy()
    if not cost.size:
        return torch.zeros(0, dtype=torch.int64)
    step = torch.finfo(similarity.dtype).eps * float(np.abs(cost).max()) or 1.0
    # What a whole row or column has in common changes no optimum, but the solver, which starts
    # from prices of zero, takes ten times as long to find it out (similarities of descriptors).
    cost -= cost.mean(1, keepdims=True)
    cost -= cost.mean(0)
    if current is not None:
        cost[np.arange(len(cost)), current.cpu().numpy()] -= step
    return torch.from_numpy(linear_sum_assignment(cost)[1].astype(np.int64))
