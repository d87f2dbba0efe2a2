"""Folders that the tests of this one share."""

import pytest

from tests.commands.apply.measured import build


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Return what makes the folder of a network: two models, the second's order, statistics."""
    made = {}

    def made_of(name):
        if name not in made:
            made[name] = build(tmp_path_factory.mktemp(name), name)
        return made[name]

    return made_of
