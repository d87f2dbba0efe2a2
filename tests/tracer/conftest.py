"""What holds for every test of tracing."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random models, whichever tests ran before it in its process."""
    torch.manual_seed(0)
