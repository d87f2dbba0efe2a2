"""What is in the files that a run wrote, as lines of text."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.golden.cases import Same
from tests.golden.plain import plain

# Nobody but us reads these, and what they hold depends on versions.
_OTHERS = ("cache/", "__pycache__/")


def snapshot(folder: Path) -> dict[str, str]:
    """Return the digests of all files under a folder, by name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = ((path.relative_to(folder).as_posix(), path) for path in paths)
    return {
        name: _digest(path.read_bytes()) for name, path in named if not name.startswith(_OTHERS)
    }


def described(folder: Path, before: Mapping[str, str], same: Same) -> Iterator[str]:
    """Yield lines about the files that are new, different or gone."""
    after = snapshot(folder)
    yield from (f"{name}: gone" for name in before if name not in after)
    for name, digest in after.items():
        if before.get(name) == digest:
            continue
        exact = same is Same.BYTES and name.endswith(".safetensors")
        yield f"{name}: sha256 {digest}" if exact else f"{name}:"
        describe = _DESCRIBE.get(Path(name).suffix, _nothing)
        if not exact:
            yield from (f"  {line}" for line in describe(folder / name, folder, same))


def _text(path: Path, folder: Path, same: Same) -> Iterator[str]:
    text = plain(path.read_text("utf-8"), folder, exact=same is Same.BYTES)
    yield from (f"| {line}" for line in text.splitlines())


def _safetensors(path: Path, folder: Path, same: Same) -> Iterator[str]:
    """Yield the metadata and tensors of a file."""
    raw = path.read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:data])
    for key, text in sorted(header.pop("__metadata__", {}).items()):
        shown = plain(_unpacked(key, text), folder, exact=False)
        yield f"{key} = {shown}".replace("\n", "\\n")
    for name, facts in header.items():
        start, end = (data + offset for offset in facts["data_offsets"])
        value = "" if same is Same.NAMES else _digest(raw[start:end])[:16]
        yield f"{name}: {facts['dtype']} {facts['shape']} {value}"


def _unpacked(key: str, text: str) -> str:
    """Return metadata without what a version of zlib decides."""
    if key != "rebasin.masks":
        return text
    masks = json.loads(text)
    return str(
        {name: zlib.decompress(base64.b64decode(mask)).hex() for name, mask in masks.items()}
    )


def _torch(path: Path, folder: Path, same: Same) -> Iterator[str]:
    """Yield a line for each thing in a .pt, whose bytes depend on the version of torch."""
    for line in _nested(torch.load(path, weights_only=True), ""):
        yield plain(line, folder, exact=False)


def _nested(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _nested(item, f"{place}/{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, item in enumerate(value):
            yield from _nested(item, f"{place}/{number}")
    elif isinstance(value, Tensor):
        raw = bytes(value.contiguous().flatten().view(torch.uint8).tolist())
        yield f"{place}: {value.dtype} {list(value.shape)} {_digest(raw)[:16]}"
    else:
        yield f"{place} = {value!r}"


def _nothing(path: Path, folder: Path, same: Same) -> Iterator[str]:
    yield from ()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_DESCRIBE: Mapping[str, Callable[[Path, Path, Same], Iterator[str]]] = {
    **dict.fromkeys((".json", ".md", ".ndjson", ".py", ".yaml"), _text),
    ".safetensors": _safetensors,
    ".pt": _torch,
}
