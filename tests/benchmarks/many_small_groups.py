"""Claim: time grows no faster than the number of groups, however small they are: 500 in 4 s.

The whole command, `rebasin align`, on random weights, default effort: from the start of Python to
the file that is written. "layers": a chain of layers 8 wide; "mixed": layers 3 to 13 wide, of 121
forms; "blocks": residual blocks 8 wide with norms, all on one stream 16 wide; "heads": attention
with 8 heads of 4 dims on a stream 32 wide; "experts": of one mixture, 8 wide inside. "CPU s" and
"wall s" of the command, of which "import torch" takes the share of the first row. --full: up to
2,500 layers, 2,000 blocks, 500 layers of heads and 400 experts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.benchmarks.bed.commands import COMMAND, spend
from tests.benchmarks.bed.tables import Row, number, table

HEADS = ("network", "how many", "CPU s", "wall s")
SHORT = {"layers": (100, 500), "mixed": (100,), "blocks": (100,), "heads": (20,), "experts": (40,)}
FULL = {
    "layers": (500, 1000, 2500),
    "mixed": (500, 2500),
    "blocks": (500, 2000),
    "heads": (100, 500),
    "experts": (100, 400),
}
STREAM = "  inp.weight: [stream, ~]\n  out.weight: [~, stream]\n"
SPECS = {
    "blocks": "tensors:\n"
    + STREAM
    + """\
  blocks.{i}.norm.{weight,bias}: [stream]
  blocks.{i}.up.weight: [hidden.{i}, stream]
  blocks.{i}.up.bias: [hidden.{i}]
  blocks.{i}.down.weight: [stream, hidden.{i}]
  blocks.{i}.down.bias: [stream]
""",
    "heads": "groups: {'head.{i}': {size: 8}, 'qk.{i}': {per: 'head.{i}'}, "
    + "'vo.{i}': {per: 'head.{i}'}}\ntensors:\n"
    + STREAM
    + """\
  blocks.{i}.qkv.weight: ["head.{i} * qk.{i} + head.{i} * qk.{i} + head.{i} * vo.{i}", stream]
  blocks.{i}.out.weight: [stream, "head.{i} * vo.{i}"]
""",
    "experts": "groups: {ffn: {per: expert}}\ntensors:\n"
    + STREAM
    + """\
  experts.[e].up.weight: [expert, ffn, stream]
  experts.[e].down.weight: [expert, stream, ffn]
  gate.weight: [expert, stream]
""",
}  # those of the others are found by themselves

Values = NDArray[np.float32]
State = Mapping[str, Values]
Draw = Callable[..., Values]


def perceptron(widths: list[int], draw: Draw) -> State:
    pairs = enumerate(pairwise(widths))
    return {
        name: value
        for k, (read, written) in pairs
        for name, value in (
            (f"{k}.weight", draw(written, read)),
            (f"{k}.bias", draw(written)),
        )
    }


def layers(count: int, draw: Draw) -> State:
    return perceptron([8] * (count + 1), draw)


def mixed(count: int, draw: Draw) -> State:
    return perceptron([3 + 7 * k % 11 for k in range(count + 1)], draw)


def blocks(count: int, draw: Draw) -> State:
    shapes = {
        "norm.weight": (16,),
        "norm.bias": (16,),
        "up.weight": (8, 16),
        "up.bias": (8,),
        "down.weight": (16, 8),
        "down.bias": (16,),
    }
    return _repeated("blocks", shapes, 16, count, draw)


def heads(count: int, draw: Draw) -> State:
    return _repeated("blocks", {"qkv.weight": (96, 32), "out.weight": (32, 32)}, 32, count, draw)


def experts(count: int, draw: Draw) -> State:
    shapes = {"up.weight": (8, 16), "down.weight": (16, 8)}
    return {**_repeated("experts", shapes, 16, count, draw), "gate.weight": draw(count, 16)}


def _repeated(
    name: str, shapes: Mapping[str, tuple[int, ...]], stream: int, count: int, draw: Draw
) -> State:
    inside = {
        f"{name}.{k}.{part}": draw(*shape) for k in range(count) for part, shape in shapes.items()
    }
    return {"inp.weight": draw(stream, 8), **inside, "out.weight": draw(4, stream)}


NETWORKS = {"layers": layers, "mixed": mixed, "blocks": blocks, "heads": heads, "experts": experts}


def drawn(seed: int) -> Draw:
    """Return what draws weights that keep the scale of what they are multiplied with."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Values:
        return (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)

    return draw


def row(name: str, count: int, folder: Path) -> Row:
    """Write two models, align them, and return what the command took."""
    files = []
    for seed in (0, 1):
        files.append(folder / f"{name}-{count}-{seed}.safetensors")
        save_file(dict(NETWORKS[name](count, drawn(seed))), files[-1])
    spec = folder / f"{name}.yaml"
    if name in SPECS:
        spec.write_text(f"rebasin: 1\nname: {name}\n{SPECS[name]}")
    options = ["--spec", str(spec)] if name in SPECS else []
    spent = spend([*COMMAND, "align", *map(str, files), *options])
    return name, str(count), number(spent.cpu, 1), number(spent.wall, 1)


def rows(counts: Mapping[str, tuple[int, ...]], folder: Path) -> Iterator[Row]:
    spent = spend([sys.executable, "-c", "import torch"])
    yield "import torch", "", number(spent.cpu, 1), number(spent.wall, 1)
    for name, several in counts.items():
        for count in several:
            yield row(name, count, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="thousands of groups")
    counts = FULL if parser.parse_args().full else SHORT
    with tempfile.TemporaryDirectory() as folder:
        print(table(HEADS, list(rows(counts, Path(folder)))))


if __name__ == "__main__":
    main()
