"""Two programs solve assignments; which of them is installed changes the time alone."""

import runpy
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.matching.assignment import lapx_solver, scipy_solver
from rebasin_cli.matching.assignment import linear as assignment


@given(st.integers(2, 150), st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_both_find_the_same_permutation(size, seed):
    cost = np.random.default_rng(seed).normal(size=(size, size))
    assert lapx_solver.columns(cost).tolist() == scipy_solver.columns(cost).tolist()


def test_lapx_is_taken_where_it_is_installed():
    assert vars(assignment)["columns"] is lapx_solver.columns


def test_scipy_is_taken_elsewhere(monkeypatch):
    monkeypatch.setitem(sys.modules, "lap", None)
    monkeypatch.delitem(sys.modules, lapx_solver.__name__)
    assert runpy.run_path(assignment.__file__)["columns"] is scipy_solver.columns
