"""Data and evaluations that a user names: `file.py:batches`, `pkg.mod:evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast

from rebasin_cli.errors import UsageError, UserCodeError
from rebasin_cli.models.user.imports import import_folder, named_object
from rebasin_cli.models.user.uncached_imports import folder_importable

Loader = Callable[[], Iterable[object]]


def load_loader(target: str) -> Loader:
    """Return what yields batches, from the start at every call.

    target: a function that returns something to iterate over, or such a thing, as a DataLoader.
    Raises UsageError for anything else, and for an iterator, which can be read only once.
    """
    found, folder = named_object(target), import_folder(target)
    again = loader_of(found, target)

    def batches() -> Iterator[object]:
        with folder_importable(folder):
            yield from again()

    return batches


def loader_of(found: object, name: str) -> Loader:
    """Return what yields batches, from an object; see `load_loader`."""
    if isinstance(found, Iterator):
        raise UsageError(
            f"{name} is an iterator, which can be read only once",
            hint="name a function that returns it",
        )
    if callable(found):
        return partial(_values_made, found, name)
    if isinstance(found, Iterable):
        return lambda: found
    raise UsageError(
        f"{name} is a {type(found).__name__}, not a way to get batches",
        hint="torch.utils.data.DataLoader(...) makes batches of a data set",
    )


def _values_made(make: Callable[[], object], name: str) -> Iterable[object]:
    """Return what a user's function makes; raises UserCodeError if that is nothing."""
    values = make()
    if values is None:
        raise UserCodeError(f"{name} returns nothing", hint="it has to yield batches")
    return cast("Iterable[object]", values)


def load_evaluation(target: str) -> Callable[[Any], object]:
    """Return a user's function of a module. Raises UsageError for what cannot be called."""
    found, folder = named_object(target), import_folder(target)
    if not callable(found):
        raise UsageError(f"{target} is a {type(found).__name__}, not a function of a module")

    def evaluate(model: Any) -> object:
        with folder_importable(folder):
            return cast(object, found(model))

    return evaluate
