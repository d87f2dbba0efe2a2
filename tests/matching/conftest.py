"""What tests of the matching share."""

import pytest

from rebasin_cli.matching.search import threads


@pytest.fixture
def handed_over(monkeypatch):
    """Have small networks go to other threads too, which are for large ones."""
    monkeypatch.setattr(threads, "LIGHT", 0)
