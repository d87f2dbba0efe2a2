"""Where the families of a search are visited: here, or in threads if that is worth its price."""

import threading

import pytest

from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.matching.search.threads import threads
from tests.matching.problems import mlp

MOVING = families(mlp().bound, None)


def answers(jobs):
    """Return the names of the threads that four calls ran in."""
    with threads(Settings(jobs=jobs), MOVING) as pool:
        return {*pool.map(lambda _: threading.current_thread().name, range(4))}


@pytest.mark.parametrize("jobs", [1, 2])
def test_light_work_stays_here(jobs):
    assert answers(jobs) == {threading.current_thread().name}


@pytest.mark.usefixtures("handed_over")
def test_other_work_is_handed_over():
    assert threading.current_thread().name not in answers(2)


@pytest.mark.usefixtures("handed_over")
def test_one_job_stays_here_whatever_it_takes():
    assert answers(1) == {threading.current_thread().name}


def test_what_goes_wrong_here_is_raised_here():
    with threads(Settings(), MOVING) as pool, pytest.raises(ZeroDivisionError):
        list(pool.map(lambda number: 1 / number, [0]))
