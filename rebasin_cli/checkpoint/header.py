"""The header of a safetensors file: checked in full before a byte of data is used, and written.

The format: 8 bytes, little endian, the length of the header; the header, a JSON object from
tensor names to dtype, shape and data offsets; then the data, without holes.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import torch

from rebasin_cli.checkpoint.failures import cap_problems
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.errors import CheckpointError, Problem
from rebasin_cli.tensors import TensorInfo

# The limit of the reference implementation: a larger header is an attack, not a model.
MAX_HEADER = 100_000_000
LENGTH = struct.Struct("<Q")

_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
    "C64": "complex64",
}
# An older torch lacks some of the 8-bit and unsigned types.
DTYPES: Mapping[str, torch.dtype] = {
    code: getattr(torch, name) for code, name in _NAMES.items() if hasattr(torch, name)
}
CODES: Mapping[torch.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}
_SUB_BYTE = frozenset({"F4", "F6_E2M3", "F6_E3M2", "I4", "U4"})
_REFUSED = "quantised and sub-byte types are not supported"
_CODES = "take the weights that these were made from, in bfloat16 or float32"
_FIELDS = {"dtype", "shape", "data_offsets"}
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class HeaderEntry:
    """A tensor and where its bytes are, counted from the end of the header."""

    info: TensorInfo
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A valid header. entries: by name, in the order of the data. start: of the data."""

    entries: Mapping[str, HeaderEntry]
    metadata: Mapping[str, str]
    start: int


def read_header(file: OpenFile) -> Header:
    """Read and check a header.

    Raises CheckpointError with every problem of the tensors at once.
    """
    where = str(file.path)
    length = _header_length(file)
    fields = parse_object(file.read(LENGTH.size, length), where=where, what="the header")
    metadata = _metadata(fields.pop("__metadata__", {}), where)
    checked = [_entry(name, field, where) for name, field in fields.items()]
    problems = [
        problem for item in checked if not isinstance(item, HeaderEntry) for problem in item
    ]
    if problems:
        raise CheckpointError(*problems)
    entries = sorted(
        (item for item in checked if isinstance(item, HeaderEntry)), key=lambda e: (e.begin, e.end)
    )
    start = LENGTH.size + length
    problems = list(_gaps(entries, file.size - start, where))
    if problems:
        raise CheckpointError(*problems)
    return Header({entry.info.name: entry for entry in entries}, metadata, start)


def dump_header(tensors: Sequence[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Return length and header for tensors stored one after the other in this order.

    Equal arguments give equal bytes. The data starts at a multiple of 8.
    Raises CheckpointError if a dtype has no name in the format.
    """
    _require_storable(tensors)
    fields: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for info in tensors:
        end = offset + info.nbytes
        fields[info.name] = {
            "dtype": CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % LENGTH.size)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"the header would have {len(text)} bytes, the limit is {MAX_HEADER}")
    return LENGTH.pack(len(text)) + text


def _require_storable(tensors: Sequence[TensorInfo]) -> None:
    hint = "write a .pt file instead"
    problems = [
        Problem(f"safetensors cannot store tensor {info.name!r} of dtype {info.dtype}", hint=hint)
        for info in tensors
        if info.dtype not in CODES
    ]
    if any(info.name == "__metadata__" for info in tensors):
        problems.append(Problem("safetensors cannot store a tensor named '__metadata__'"))
    if problems:
        raise CheckpointError(*cap_problems(problems))


def _header_length(file: OpenFile) -> int:
    where = str(file.path)
    if file.size < LENGTH.size:
        raise CheckpointError(
            "too short for a safetensors file",
            where=where,
            detail=f"expected at least {LENGTH.size} bytes, found {file.size}",
        )
    length: int = LENGTH.unpack(file.read(0, LENGTH.size))[0]
    if length > MAX_HEADER:
        raise CheckpointError(
            f"the header claims {length} bytes, the limit is {MAX_HEADER}",
            where=where,
            hint="this is not a safetensors file, or it is damaged",
        )
    if length > file.size - LENGTH.size:
        raise CheckpointError(
            f"the header claims {length} bytes, the file has {file.size - LENGTH.size} after it",
            where=where,
            hint="the file is cut short; copy or download it again",
        )
    return length


def _metadata(field: object, where: str) -> dict[str, str]:
    if not isinstance(field, dict):
        raise CheckpointError("__metadata__ is not an object", where=where)
    wrong = [key for key, value in field.items() if not isinstance(value, str)]
    if wrong:
        names = ", ".join(map(repr, wrong))
        raise CheckpointError(f"__metadata__ holds values that are not text: {names}", where=where)
    return field


def _entry(name: str, field: Any, where: str) -> HeaderEntry | list[Problem]:
    """Return a checked entry, or all that is wrong with it."""
    wrong = list(_field_problems(field)) if isinstance(field, dict) else ["is not an object"]
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        wrong.append("has a name that is not valid Unicode")
    if wrong:
        hint = _CODES if wrong[0].endswith(_REFUSED) else ""
        return [Problem(f"tensor {name!r} {text}", where=where, hint=hint) for text in wrong]
    info = TensorInfo(name, tuple(field["shape"]), DTYPES[field["dtype"]])
    begin, end = field["data_offsets"]
    if end - begin != info.nbytes:
        what = f"tensor {name!r} has a wrong number of bytes"
        kind = f"{field['dtype']} of shape {list(info.shape)}"
        detail = f"expected {info.nbytes} for {kind}, found {end - begin}"
        return [Problem(what, where=where, detail=detail)]
    return HeaderEntry(info, begin, end)


def _field_problems(field: dict[str, Any]) -> Iterable[str]:
    if field.keys() != _FIELDS:
        yield from (f"has no {key}" for key in sorted(_FIELDS - field.keys()))
        yield from (f"has an unknown field {key!r}" for key in sorted(field.keys() - _FIELDS))
        return
    yield from _dtype_problems(field["dtype"])
    yield from _shape_problems(field["shape"])
    offsets = field["data_offsets"]
    match offsets if _are_sizes(offsets) else None:
        case [begin, end]:
            if begin > end:
                yield f"ends at {end}, before its begin {begin}"
        case _:
            yield f"has data_offsets {offsets!r}, expected two non-negative integers"


def _dtype_problems(code: object) -> Iterable[str]:
    if not isinstance(code, str):
        yield f"has dtype {code!r}, expected text"
    elif code in _SUB_BYTE:
        yield f"has dtype {code}: {_REFUSED}"
    elif code not in _NAMES:
        yield f"has unknown dtype {code!r}"
    elif code not in DTYPES:
        yield f"has dtype {code}, which needs a newer version of torch"


def _shape_problems(shape: object) -> Iterable[str]:
    if not _are_sizes(shape):
        yield f"has shape {shape!r}, expected a list of non-negative integers"
        return
    # Zeros aside, or an empty tensor could hide sizes whose product no machine can count.
    if prod(size for size in shape if size) > _LARGEST:
        yield f"has shape {shape!r}, which is too large"


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _gaps(entries: Sequence[HeaderEntry], available: int, where: str) -> Iterable[Problem]:
    """Find overlaps, holes and a wrong end. `entries` are sorted by their place."""
    place = 0
    for entry in entries:
        what = "overlaps the one before it" if entry.begin < place else "leaves a hole before it"
        if entry.begin != place:
            detail = f"expected it at byte {place}, found it at {entry.begin}"
            yield Problem(f"tensor {entry.info.name!r} {what}", where=where, detail=detail)
        place = max(place, entry.end)
    if place != available:
        last = f"tensor {entries[-1].info.name!r} ends at" if entries else "there are no tensors:"
        what = "is cut short" if place > available else "has trailing bytes"
        detail = f"{last} byte {place} of the data, found {available} bytes"
        yield Problem(f"the file {what}", where=where, detail=detail)
