"""What every test shares: which files are tests, and when a GPU test can run."""

import gc
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, settings

# Scripts: they run as programs, and importing them would train networks or need extras.
collect_ignore = ["demo", "benchmarks"]

# What is imported and collected stays: nobody looks for garbage in it, now or while tests run.
gc.disable()

# The same examples everywhere, however slow a machine is: what passes today passes tomorrow.
# `pytest --hypothesis-profile=default` looks for others.
settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    import torch  # here, since what only hands tests out to workers does without it

    # The networks are tiny: on a busy machine, threads that wait for each other cost 30 times more.
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
