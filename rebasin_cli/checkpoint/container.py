"""The objects inside a PyTorch file, read without running code, and the state dict among them."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import pickletools
import struct
import threading
import types
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.checkpoint.failures import listing, reading
from rebasin_cli.errors import CheckpointError, suggest

ZIP_MAGIC = b"PK\x03\x04"

# Where training programs put the weights, the most usual first.
PARTS = (
    "state_dict",
    "model",
    "model_state_dict",
    "ema",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "params_ema",
    "params",
    "module",
    "net",
    "network",
    "model_state",
    "weights",
)

# Optimizer states nest four deep; a container that holds itself would have no end.
_DEEPEST = 6

# What reading a damaged pickle raises, besides UnpicklingError: any of its instructions may fail.
_DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ImportError,
    ArithmeticError,
    struct.error,
)

# Magic number, protocol, system, the objects, the storage keys; then raw numbers follow.
_LEGACY_PICKLES = 5

# The list of allowed classes is one for the whole process.
_ALLOWING = threading.Lock()


def load_container(path: Path) -> Any:
    """Return the objects of a PyTorch file; tensors of zip files stay on disk until touched.

    Raises CheckpointError if the file is damaged or reading it would run code.
    """
    mapped = is_mapped(path)
    if mapped:
        _require_weights_archive(path)
    try:
        with reading(path), _ALLOWING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(_plain_data()):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _DAMAGE as error:
        raise _refusal(path, error, mapped) from error


def find_state_dict(container: Any, *, key: str | None, path: Path) -> MutableMapping[str, Any]:
    """Return the part that maps names to tensors: the one `key` names, or the first of PARTS.

    key: a dotted path. Raises CheckpointError listing the keys there are.
    """
    if key is not None:
        return _part(container, key, path)
    found = _search(container)
    if found is None:
        raise CheckpointError(
            "no state dict found",
            where=str(path),
            detail=f"it holds {_describe(container)}",
            hint="name the part that holds the weights with --key",
        )
    return found


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, leaving out its other entries."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _search(container: Any, depth: int = _DEEPEST) -> MutableMapping[str, Any] | None:
    if not depth or not isinstance(container, MutableMapping):
        return None
    if tensors_of(container) and not any(map(_holds_tensors, container.values())):
        return container
    for part in PARTS:
        found = _search(container.get(part), depth - 1)
        if found is not None:
            return found
    return None


def _holds_tensors(value: Any, depth: int = _DEEPEST) -> bool:
    return (depth > 0 and isinstance(value, Mapping)) and any(
        isinstance(item, Tensor) or _holds_tensors(item, depth - 1) for item in value.values()
    )


def _part(container: Any, key: str, path: Path) -> MutableMapping[str, Any]:
    found = _descend(container, key)
    if found is None:
        known = _paths(container)
        raise CheckpointError(
            f"there is no part {key!r}",
            where=str(path),
            detail=f"it holds {_describe(container)}",
            hint=suggest(key, known),
        )
    if not isinstance(found, MutableMapping) or not tensors_of(found):
        raise CheckpointError(
            f"the part {key!r} is not a state dict",
            where=str(path),
            detail=f"it holds {_describe(found)}",
        )
    return found


def _descend(container: Any, key: str) -> Any:
    """Follow a dotted path; a key that itself holds dots wins over a deeper path."""
    if not isinstance(container, Mapping):
        return None
    if key in container:
        return container[key]
    for dot in (i for i, letter in reversed(list(enumerate(key))) if letter == "."):
        found = _descend(container.get(key[:dot]), key[dot + 1 :])
        if found is not None:
            return found
    return None


def _paths(container: Any, prefix: str = "", depth: int = _DEEPEST) -> list[str]:
    """Return the dotted paths of all parts that hold tensors."""
    if not depth or not isinstance(container, Mapping):
        return []
    parts = [(f"{prefix}{name}", part) for name, part in container.items() if _holds_tensors(part)]
    return [path for name, part in parts for path in (name, *_paths(part, f"{name}.", depth - 1))]


def _describe(container: Any) -> str:
    if not isinstance(container, Mapping):
        return f"a {type(container).__name__}, not named parts"
    shown = [f"{name} ({_kind(value)})" for name, value in islice(container.items(), 1000)]
    return listing(shown) or "nothing"


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{len(tensors_of(value))} tensors" if tensors_of(value) else f"{len(value)} items"
    return type(value).__name__


def is_mapped(path: Path) -> bool:
    """Tell whether tensors stay on disk until touched: in a zip archive, not in an old pickle."""
    with reading(path), path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def _require_weights_archive(path: Path) -> None:
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        hint = "it may be cut short; copy or download it again"
        raise CheckpointError("damaged PyTorch file", where=str(path), hint=hint) from error
    if "constants.pkl" in names:
        raise CheckpointError(
            "this is a TorchScript program, not weights",
            where=str(path),
            hint="save torch.jit.load(FILE).state_dict() with torch.save",
        )
    if "data.pkl" not in names:
        raise CheckpointError("this zip archive is not a PyTorch file", where=str(path))


def _plain_data() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return the classes that hold data and can do nothing else.

    numpy numbers and argparse options are what training programs most often leave beside the
    weights. numpy moved its internals in version 2, hence two names for each function.
    """
    scalar, rebuild = _numpy_builders()
    numpy_functions = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((scalar, "scalar"), (rebuild, "_reconstruct"))
    ]
    dtypes = {type(np.dtype(code)) for code in np.sctypeDict.values() if code is not np.void}
    plain: list[Callable[..., Any]] = [
        np.ndarray,
        np.dtype,
        *sorted(dtypes, key=lambda kind: kind.__name__),
    ]
    plain += [argparse.Namespace, types.SimpleNamespace, defaultdict, dict, list, int, float]
    plain += [pathlib.PosixPath, pathlib.PurePosixPath]
    return [*plain, *numpy_functions]


def _numpy_builders() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that a pickled numpy number and array name, under any version."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.empty(0).__reduce__()[0]
    return scalar, array  # type: ignore[return-value]


def _refusal(path: Path, error: BaseException, zipped: bool) -> CheckpointError:
    """Return the reason why a file was not read: it wants to run code, or it is damaged."""
    code = _foreign_names(path, zipped) if isinstance(error, pickle.UnpicklingError) else []
    if not code:
        hint = "it may be cut short; copy or download it again"
        return CheckpointError("not a readable PyTorch file", where=str(path), hint=hint)
    return CheckpointError(
        "refused: reading this file would run code",
        where=str(path),
        detail=f"it asks for {listing(code)}",
        hint="where you trust it, save it again as a plain state dict, "
        "torch.save(model.state_dict(), FILE), or as safetensors",
    )


def _foreign_names(path: Path, zipped: bool) -> list[str]:
    """Return the classes and functions that a file needs and that are not plain data."""
    names: set[str] = set()
    try:
        if zipped:
            with _ALLOWING, torch.serialization.safe_globals(_plain_data()):
                names.update(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        else:
            with path.open("rb") as file:
                names.update(filter(_is_foreign, _legacy_names(file)))
    except (*_DAMAGE, OSError):
        # The names found up to the damage are still the reason.
        return sorted(names)
    return sorted(names)


def _legacy_names(file: BinaryIO) -> Iterator[str]:
    """Yield the names that the pickles at the start of a legacy file import."""
    for _ in range(_LEGACY_PICKLES):
        texts: list[str] = []  # what was pushed last; STACK_GLOBAL takes module and name from it
        memo: list[str] = []
        for opcode, value, _position in pickletools.genops(file):
            argument: Any = value
            if opcode.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif opcode.name == "MEMOIZE":
                memo.append(texts[-1] if texts else "")
            elif opcode.name in ("BINGET", "LONG_BINGET") and argument < len(memo):
                texts.append(memo[argument])
            elif isinstance(argument, str):
                texts.append(argument)


def _is_foreign(name: str) -> bool:
    """Tell whether a name is neither plain data nor one of torch's tensors and storages."""
    module, _, _ = name.rpartition(".")
    return module not in ("torch", "torch._utils", "torch.storage", "collections", "_codecs")
