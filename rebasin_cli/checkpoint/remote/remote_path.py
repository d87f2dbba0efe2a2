"""URLs among the paths that a command is given, told apart where paths are read."""

from __future__ import annotations

import re
from pathlib import Path, PosixPath

from rebasin_cli.checkpoint.endings import is_weight_name
from rebasin_cli.checkpoint.remote.stores import talking_to

HUB = "hf"
# From what cannot be written to: the hub takes commits, and a web server nothing.
_ONLY_READ = (HUB, "http", "https")
_LOCAL = ("file", "local")
# A path keeps one of the two slashes, and its first part tells it from any other but a folder
# whose name ends in a colon: such a one is named from the root.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")


class RemotePath(PosixPath):
    """A URL as a path: names and parents are those of paths, questions go to the store.

    What is not asked here fails as for a file that is not there.
    """

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    @property
    def scheme(self) -> str:
        return self.parts[0].removesuffix(":")

    @property
    def inside(self) -> str:
        """What follows the scheme."""
        return "/".join(self.parts[1:])

    @property
    def only_read(self) -> bool:
        return self.scheme in _ONLY_READ

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        if self.scheme == HUB:
            return True  # nothing is written there, and who reads it is told
        with talking_to(str(self)) as (store, key):
            return bool(store.exists(key))

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        if self.scheme == HUB:
            return not is_weight_name(self.name)
        with talking_to(str(self)) as (store, key):
            return bool(store.isdir(key))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self.exists() and not self.is_dir()

    def samefile(self, other_path: object) -> bool:
        """Return whether it is the other, or a file inside it."""
        return self == other_path or other_path in self.parents

    def remove(self) -> None:
        """Remove it, and of a folder all that is in it."""
        with talking_to(str(self), what="cannot remove") as (store, key):
            for file in store.find(key):
                store.rm_file(file)

    def absolute(self) -> RemotePath:
        return self


def named_path(path: str | Path) -> Path:
    """Return the path that a user named, `~` expanded if there is such a user; URLs stay URLs.

    >>> str(named_path(Path("s3://bucket/model.safetensors")))
    's3://bucket/model.safetensors'
    """
    plain = Path(path)
    found = _SCHEME.fullmatch(plain.parts[0]) if len(plain.parts) > 1 else None
    if found:
        return Path("/", *plain.parts[1:]) if found[1] in _LOCAL else RemotePath(*plain.parts)
    try:
        return plain.expanduser()
    except RuntimeError:
        return plain
