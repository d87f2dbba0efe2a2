"""One assignment problem, solved by lapx (the extra `fast`): exact, in float64.

It takes a third to two thirds of the time of scipy on the problems of a search, and finds the
same permutations except among equals. Source: Jonker, Volgenant 1987, Computing 38.
"""

from __future__ import annotations

import numpy as np
from lap import lapjvh
from numpy.typing import NDArray


def columns(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the column of each row, (n,), that make the sum of `cost`, (n, n), least."""
    return lapjvh(cost, return_cost=False)[1]
