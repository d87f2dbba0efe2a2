"""One assignment problem, solved by scipy: exact, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def columns(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the column of each row, (n,), that make the sum of `cost`, (n, n), least."""
    return linear_sum_assignment(cost)[1]
