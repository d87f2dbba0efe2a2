"""Python files of the user's, compiled from what they hold now.

A cached `.pyc` is taken for current if the whole second and the size of its source agree: a file
that a script or an editor rewrites within that second would run as it was before. Here no such
cache is read or written, and a module that is in memory is taken for current if every file agrees.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import accumulate
from pathlib import Path
from types import CodeType, ModuleType

_PACKAGE = __name__.partition(".")[0]
_INSTALLED = ("site-packages", "dist-packages")
_STDLIB = Path(sysconfig.get_path("stdlib"))


class FromSource(SourceFileLoader):
    """Loads a module from its file; digest: the SHA-256 of what the file held."""

    digest = ""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        self.digest = hashlib.sha256(source).hexdigest()
        return self.source_to_code(source, self.path)


class StandaloneSource(FromSource):
    """Loads a file as a module of its own, which no import finds."""


class _Finder(MetaPathFinder):
    """Finds what Python would, and has it loaded from source unless it is installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader and _is_users(spec):
            spec.loader, spec.cached = FromSource(fullname, spec.loader.path), None
        return spec


def _is_users(spec: ModuleSpec) -> bool:
    place = Path(spec.origin or "")
    inside = not {*_INSTALLED}.isdisjoint(place.parts) or place.is_relative_to(_STDLIB)
    return not inside and spec.name.partition(".")[0] != _PACKAGE


@contextlib.contextmanager
def folder_importable(folder: Path) -> Iterator[None]:
    """Let modules of the folder be imported, as Python does for a script that lies there.

    Modules of the same names from another such folder are dropped from memory. What the user's code
    itself puts on the path stays there: it may import from it later.
    """
    place, finder = str(folder), _Finder()
    sys.path.insert(0, place)
    # Where Python's own stands: what is built in or frozen comes first.
    sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)
    importlib.invalidate_caches()  # a file may have come within the resolution of its folder's time
    _forget(name for name, loader in _loaders().items() if not _is_found(name, loader))
    try:
        yield
    finally:
        if place in sys.path:  # no longer, where the user's code has set another path
            sys.path.remove(place)
        sys.meta_path.remove(finder)  # and no other: packages put theirs there as they are imported


def loaded_sources() -> dict[str, str]:
    """Return the files that modules in memory were loaded from, and the digest of each."""
    return {loader.path: loader.digest for loader in _loaders().values()}


def same_sources(sources: Mapping[str, str]) -> bool:
    """Return whether all files still are what they were when they were loaded."""
    return all(_digest(Path(path)) == digest for path, digest in sources.items())


def forget_changed() -> None:
    """Drop the user's modules from memory if one of their files is another now.

    All of them, for any may hold what it imported from another.
    """
    if not same_sources(loaded_sources()):
        _forget(_loaders())


def _forget(names: Iterable[str]) -> None:
    """Drop modules and the packages that hold them."""
    for name in list(names):
        for package in accumulate(name.split("."), "{}.{}".format):
            sys.modules.pop(package, None)


def _is_found(name: str, loader: FromSource) -> bool:
    """Return whether an import would find the file that a module came from."""
    if isinstance(loader, StandaloneSource):
        return True
    spec = PathFinder.find_spec(name.partition(".")[0])
    places = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
    return any(Path(loader.path).is_relative_to(place) for place in places)


def _loaders() -> dict[str, FromSource]:
    specs = {name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}
    found = {name: getattr(spec, "loader", None) for name, spec in specs.items()}
    return {name: loader for name, loader in found.items() if isinstance(loader, FromSource)}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
