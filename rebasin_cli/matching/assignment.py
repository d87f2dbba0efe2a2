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
    if current is not None and cost.size:
        step = torch.finfo(similarity.dtype).eps * float(np.abs(cost).max()) or 1.0
        cost[np.arange(len(cost)), current.cpu().numpy()] -= step
    return torch.from_numpy(linear_sum_assignment(cost)[1].astype(np.int64))
