"""Help and completion must be fast, so the command line may load heavy packages only to work."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("numpy", "safetensors", "scipy", "torch", "yaml")


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages in memory after a fresh interpreter imports a module."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_command_line_starts_without_heavy_packages() -> None:
    assert loaded_by("rebasin_cli.cli").isdisjoint(HEAVY)


@pytest.mark.parametrize("module", HEAVY)
def test_a_heavy_package_would_be_noticed(module: str) -> None:
    assert module in loaded_by(module)
