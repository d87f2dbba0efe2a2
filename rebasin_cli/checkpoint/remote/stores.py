"""Stores that fsspec reaches, and what goes wrong with them in the program's own errors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rebasin_cli.errors import CheckpointError, MachineError, RebasinError, UsageError

_CREDENTIALS = {
    "s3": "credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "credentials are taken from GOOGLE_APPLICATION_CREDENTIALS, or from gcloud's login",
}


@contextmanager
def talking_to(url: str, *, what: str = "cannot read") -> Iterator[tuple[Any, str]]:
    """Yield the file system of a URL and its name there; any failure of it becomes ours.

    Raises CheckpointError for what is not there when it is read, UsageError for a store that is
    none, MachineError for all else.
    """
    try:
        yield _store_of(url)
    except RebasinError:
        raise
    except FileNotFoundError as error:
        if what == "cannot read":
            raise CheckpointError("no such file, folder or bucket", where=url) from error
        raise MachineError(f"{what}: no such folder or bucket", where=url) from error
    except Exception as error:  # each store has a library with errors of its own
        said = f"{type(error).__name__}: {error}".strip(": ")
        raise MachineError(f"{what}: {said}", where=url, hint=_hint(url, error)) from error


def optional_package(name: str, extra: str) -> Any:
    """Import a package that an extra brings; MachineError says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MachineError(
            f"this needs the package {name}, which cannot be imported",
            detail=str(error),
            hint=f"pip install 'rebasin-cli[{extra}]'",
        ) from error


def _store_of(url: str) -> tuple[Any, str]:
    core = optional_package("fsspec.core", "remote")
    scheme = url.partition(":")[0]
    try:
        # Without what it remembers of folders: another program may write there too.
        store, key = core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise MachineError(
            f"fsspec has no package for {scheme}://", where=url, hint=str(error)
        ) from error
    except ValueError as error:
        hint = f"a folder of the name {scheme}: is named by its absolute path"
        raise UsageError(f"not a URL: {error}", where=url, hint=hint) from error
    return store, key


def _hint(url: str, error: Exception) -> str:
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        known = _CREDENTIALS.get(url.partition(":")[0])
        return known or "check the credentials that its fsspec package looks for"
    return "check the address and the network"
