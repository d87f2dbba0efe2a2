"""The objects inside a PyTorch file, read without running code."""

from __future__ import annotations

import argparse
import datetime
import decimal
import io
import pathlib
import pickle
import struct
import sys
import threading
import types
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rebasin_cli.checkpoint.failures import reading
from rebasin_cli.checkpoint.foreign import foreign_archive
from rebasin_cli.checkpoint.torch_format.opcodes import PickledNames, survey
from rebasin_cli.checkpoint.torch_format.stand_ins import Allowed, StandIns
from rebasin_cli.errors import CheckpointError
from rebasin_cli.wording import listing

ZIP_MAGIC = b"PK\x03\x04"

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

# torch stores without packing; pickles that were packed again shrink 5 to 20 times, zip bombs 1000.
_SWOLLEN = 100

# The list of allowed classes is one for the whole process.
_ALLOWING = threading.Lock()

_BYTE_ORDER = "byteorder"  # the record that names the order of the bytes of numbers


@dataclass(frozen=True)
class Unpickled:
    """The objects of a file. dropped: what was ignored, as dotted paths, and its class."""

    value: Any
    dropped: Mapping[str, str] = field(default_factory=dict)


def load_container(path: Path, *, ignoring: bool = False) -> Unpickled:
    """Return the objects of a PyTorch file; tensors of zip files stay on disk until touched.

    ignoring: objects of foreign classes are left out instead of being a reason to refuse.
    Raises CheckpointError if the file is damaged or reading it would run code.
    """
    mapped = is_mapped(path)
    if mapped:
        _require_weights_archive(path)
    try:
        loaded = _load(path, mapped, ignoring)
    except _DAMAGE as error:
        raise _refusal(path, error, mapped) from error
    if loaded.value is None:
        hint = "save its weights where it was made: torch.save(model.state_dict(), FILE)"
        raise CheckpointError("this is a pickled object, not weights", where=str(path), hint=hint)
    return loaded


def _load(path: Path, mapped: bool, ignoring: bool) -> Unpickled:
    stand_ins = StandIns()
    allowed: list[Callable[..., Any] | Allowed] = [*_plain_data(), *stand_ins.known()]
    if ignoring:
        # torch looks at what it allows itself first, so that its own classes stay what they are.
        allowed += stand_ins.foreign(_surveyed(path, mapped), _names_of(allowed))
    with reading(path), _ALLOWING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.serialization.safe_globals(allowed), _in_unicode(path) as named:
            value = torch.load(named, map_location="cpu", weights_only=True, mmap=mapped)
    return Unpickled(stand_ins.settled(value), stand_ins.dropped)


@contextmanager
def _in_unicode(path: Path) -> Iterator[Path]:
    """Yield a name for a file whose own may be no Unicode: torch takes nothing else."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
    else:
        yield path


def is_mapped(path: Path) -> bool:
    """Tell whether tensors stay on disk until touched: in a zip archive, not in an old pickle."""
    with reading(path), path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def in_own_order(path: Path) -> bool:
    """Return whether the numbers of an archive are in this machine's order of bytes.

    torch turns others over in memory, where they are no longer what the file says.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.rpartition("/")[2] == _BYTE_ORDER]
        return all(archive.read(name).decode("ascii", "replace") == sys.byteorder for name in found)


def _require_weights_archive(path: Path) -> None:
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            swollen = any(map(_is_swollen, archive.infolist()))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        hint = "it may be cut short; copy or download it again"
        raise CheckpointError("damaged PyTorch file", where=str(path), hint=hint) from error
    foreign = foreign_archive(members)
    if foreign:
        raise foreign.refusal(str(path))
    if swollen:
        what = f"its data.pkl unpacks to more than {_SWOLLEN} times its size: it is no checkpoint"
        raise CheckpointError(what, where=str(path))
    if not any(map(_is_pickle, members)):
        raise CheckpointError("this zip archive is not a PyTorch file", where=str(path))


def _is_pickle(member: str) -> bool:
    return member.rpartition("/")[2] == "data.pkl"


def _is_swollen(member: zipfile.ZipInfo) -> bool:
    """Tell whether the objects are packed as no honest ones can be: reading them would not end."""
    return _is_pickle(member.filename) and member.file_size > _SWOLLEN * member.compress_size


def _plain_data() -> list[Callable[..., Any] | Allowed]:
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
    plain += [argparse.Namespace, types.SimpleNamespace, dict, list, tuple, frozenset]
    plain += [int, float, str, bool, range, slice, io.BytesIO, torch.torch_version.TorchVersion]
    plain += [pathlib.PosixPath, pathlib.PurePosixPath, decimal.Decimal, uuid.UUID]
    plain += [datetime.date, datetime.datetime, datetime.time, datetime.timedelta]
    plain += [datetime.timezone]
    return [*plain, *numpy_functions]


def _numpy_builders() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that a pickled numpy number and array name, under any version."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.empty(0).__reduce__()[0]
    return scalar, array  # type: ignore[return-value]


def _names_of(allowed: Iterable[Callable[..., Any] | Allowed]) -> set[str]:
    """Return the full names under which files ask for what is allowed."""
    return {
        entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"
        for entry in allowed
    }


def _refusal(path: Path, error: BaseException, zipped: bool) -> CheckpointError:
    """Return the reason why a file was not read: it wants to run code, or it is damaged."""
    code = _foreign_names(path, zipped) if isinstance(error, pickle.UnpicklingError) else []
    if code:
        return _foreign(path, zipped, code)
    reason = _reason(error, path, zipped)
    return CheckpointError(
        "not a readable PyTorch file",
        where=str(path),
        detail=reason,
        hint="load it where it was made, and save its weights again: "
        "torch.save(model.state_dict(), FILE)"
        if reason
        else "it may be cut short; copy or download it again",
    )


def _foreign(path: Path, zipped: bool, code: list[str]) -> CheckpointError:
    """Return the refusal of a file that asks for classes or functions that are not plain data."""
    hint = (
        "where you trust it, save it again as a plain state dict, "
        "torch.save(model.state_dict(), FILE), or as safetensors"
    )
    what = "refused: reading this file would run code"
    try:
        rest = _load(path, zipped, ignoring=True).value
    except (*_DAMAGE, OSError):
        rest = ()
    if rest is None:
        what = "refused: this is a pickled object, not its weights, and reading it would run code"
    elif isinstance(rest, Mapping) and rest:
        hint += "; --ignore-classes reads the rest of it, and runs nothing"
    return CheckpointError(what, where=str(path), detail=f"it asks for {listing(code)}", hint=hint)


def _reason(error: BaseException, path: Path, zipped: bool) -> str:
    """Return torch's reason for refusing an undamaged file, without its advice on torch.load."""
    if not isinstance(error, pickle.UnpicklingError) or not _surveyed(path, zipped).whole:
        return ""
    _, _, said = str(error).rpartition("WeightsUnpickler error:")
    return f"torch says: {next((line for line in said.splitlines() if line.strip()), '').strip()}"


def _foreign_names(path: Path, zipped: bool) -> list[str]:
    """Return the classes and functions that a file needs and that are not plain data."""
    plain = [*_plain_data(), *StandIns().known()]
    if zipped:
        with suppress(*_DAMAGE, OSError), _ALLOWING, torch.serialization.safe_globals(plain):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    # The names found up to the damage, if there is any, are still the reason.
    names = {*_surveyed(path, zipped).names.values()}
    return sorted(filter(_is_foreign, names - _names_of(plain)))


def _surveyed(path: Path, zipped: bool) -> PickledNames:
    """Return what the pickles of a file ask for; what is damaged asks for nothing."""
    with reading(path), path.open("rb") as file:
        if not zipped:
            return survey(file, _LEGACY_PICKLES)
        try:
            with zipfile.ZipFile(file) as archive:
                name = next(filter(_is_pickle, archive.namelist()))
                return survey(io.BytesIO(archive.read(name)), 1)
        except (zipfile.BadZipFile, zlib.error, *_DAMAGE):
            return PickledNames(whole=False)


def _is_foreign(name: str) -> bool:
    """Tell whether a name is neither plain data nor one of torch's tensors and storages."""
    module, _, _ = name.rpartition(".")
    return module not in ("torch", "torch._utils", "torch.storage", "collections", "_codecs")
