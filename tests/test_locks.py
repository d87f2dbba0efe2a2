"""The lock files hold what pyproject.toml asks for: the newest or the oldest, with hashes."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "tests" / "locks"
# name -> the files that are installed together, and the extras that they hold
EVERY = ("demo", "dev", "fast", "models", "plot")
INSTALLED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dev": (("dev", "torch"), EVERY),
    "demo": (("demo",), ("demo",)),
    "oldest": (("oldest",), EVERY),
}
BY_VARIABLE = {"demo": "torch"}  # the Makefile's TORCH


def asked(extras: tuple[str, ...]) -> list[Requirement]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project: dict[str, Any] = toml.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    texts = [*project["dependencies"]]
    texts += [text for extra in extras for text in project["optional-dependencies"][extra]]
    return [Requirement(text) for text in texts if not text.startswith("rebasin-cli")]


def locked(files: tuple[str, ...]) -> dict[str, list[Version]]:
    """Return the versions of each package: several if they depend on Python or the system."""
    found: dict[str, list[Version]] = {}
    for file in files:
        text = (LOCKS / f"{file}.txt").read_text("utf-8")
        for name, version in re.findall(r"^([\w.-]+)==([^ ;]+)", text, re.MULTILINE):
            found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


@pytest.mark.parametrize("name", INSTALLED)
def test_a_lock_has_a_version_that_is_allowed_of_everything(name: str) -> None:
    files, extras = INSTALLED[name]
    found = locked(files)
    for requirement in asked(extras):
        if BY_VARIABLE.get(name) != requirement.name:
            versions = found.get(canonicalize_name(requirement.name))
            assert versions, f"{requirement.name} is not in {name}: run `make lock`"
            assert all(requirement.specifier.contains(version) for version in versions), (
                f"{requirement} is not {versions} of {name}: run `make lock`"
            )


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    found = locked(("oldest",))
    for requirement in asked(EVERY):
        bounds = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        for bound in bounds:
            wanted = bound.release[:2]  # a bound `>=1.0` is met first by what was published first
            oldest = min(found[canonicalize_name(requirement.name)])
            assert oldest.release[:2] == wanted, f"{requirement}: {oldest}; run `make lock`"


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_package_has_hashes_and_no_address(path: Path) -> None:
    text = path.read_text("utf-8")
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[\w.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
