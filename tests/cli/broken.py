"""What every broken input must end with, and rows for the tables of them.

A row stands in a folder with the good models a.safetensors and b.safetensors (`build.pair`) and
the spec file good.yaml.
"""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from torch import Tensor

from tests.cli.build import WIDTHS, pair
from tests.cli.harness import Done, image, rebasin

ALIGN = "align a.safetensors bad.safetensors --spec mlp"

GOOD_SPEC = """\
rebasin: 1
name: good
tensors:
  0.weight: [h0, ~]
  0.bias: [h0]
  2.weight: [h1, h0]
  2.bias: [h1]
  4.weight: [h2, h1]
  4.bias: [h2]
  6.weight: [~, h2]
  6.bias: [~]
"""


def nothing(folder: Path) -> None:
    """Leave the folder as it is."""


@dataclass(frozen=True)
class Row:
    """One broken input. says: what stderr must hold, each a piece of text."""

    name: str
    argv: str
    code: int
    says: tuple[str, ...]
    make: Callable[[Path], object] = nothing
    stdin: bytes = b""
    limits: Mapping[str, int] = field(default_factory=dict)


def rows(*table: Row) -> list[ParameterSet]:
    """Return the table as parameters of a test; names may not repeat."""
    assert len({row.name for row in table}) == len(table)
    return [pytest.param(row, id=row.name.replace(" ", "-")) for row in table]


def refused(folder: Path, row: Row) -> Done:
    """Run a row; check code and message, and that nothing is written, changed or left over."""
    pair(folder)
    (folder / "good.yaml").write_text(GOOD_SPEC)
    row.make(folder)
    before = image(folder)
    done = rebasin(*shlex.split(row.argv), cwd=folder, stdin=row.stdin, limits=row.limits)
    after = image(folder)
    assert "Traceback" not in done.err, done.err
    assert done.code == row.code, done.err
    for text in row.says:
        assert text in " ".join(done.err.replace("│", " ").split()), done.err
    assert sorted(after) == sorted(before)
    assert after == before
    assert "bad.aligned" not in done.out
    return done


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file with any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def writes(name: str, data: bytes | str) -> Callable[[Path], object]:
    """Return what makes a file."""
    content = data.encode() if isinstance(data, str) else data
    return lambda folder: (folder / name).write_bytes(content)


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


assert len(WIDTHS) == 5, "GOOD_SPEC is written for four layers"
