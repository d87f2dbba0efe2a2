"""What is in the files that a run wrote, as lines of text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.golden.plain import plain

TEXTS = {".json", ".md", ".ndjson", ".py", ".txt", ".yaml"}
# Nobody else writes these, and what they hold depends on versions.
_OTHERS = ("cache/", "__pycache__/")


def snapshot(folder: Path) -> dict[str, str]:
    """Return the digests of all files under a folder, by name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = ((path.relative_to(folder).as_posix(), path) for path in paths)
    return {name: _digest(path.read_bytes()) for name, path in named if not name.startswith(_OTHERS)}


def described(folder: Path, before: Mapping[str, str], *, exact: bool) -> Iterator[str]:
    """Yield lines about the files that are new, different or gone."""
    after = snapshot(folder)
    yield from (f"{name}: gone" for name in before if name not in after)
    for name, digest in after.items():
        if before.get(name) == digest:
            continue
        path = folder / name
        if path.suffix in TEXTS:
            yield f"{name}:"
            text = plain(path.read_text("utf-8"), folder, exact=exact)
            yield from (f"  | {line}" for line in text.splitlines())
        elif path.suffix == ".safetensors":
            yield f"{name}: sha256 {digest}" if exact else f"{name}:"
            yield from () if exact else _header(path, folder)
        elif path.suffix == ".pt":
            yield f"{name}:"
            held = torch.load(path, weights_only=True)
            yield from (f"  {plain(line, folder, exact=False)}" for line in _nested(held, ""))
        else:
            yield f"{name}: written"


def _header(path: Path, folder: Path) -> Iterator[str]:
    """Yield the metadata and tensors of a file whose values differ in the last bit."""
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    for key, text in sorted(header.pop("__metadata__", {}).items()):
        yield f"  {key} = {plain(_brief(text), folder, exact=False)}"
    yield from (f"  {name}: {facts['dtype']} {facts['shape']}" for name, facts in header.items())


def _brief(text: str) -> str:
    return text if len(text) < 1000 else f"{text[:60]}..."


def _nested(value: Any, place: str) -> Iterator[str]:
    """Yield a line for each thing in a .pt, whose bytes depend on the version of torch."""
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


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
