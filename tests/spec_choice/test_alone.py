"""Files of several models, of which one file lacks one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.build import State, load, same, save
from tests.cli.harness import rebasin

SPEC = """rebasin: 1
tensors:
  in.weight: [stream, ~]
  net.{i}.up.weight: [hidden.{i}, stream]
  net.{i}.down.weight: [stream, hidden.{i}]
  out.weight: [~, stream]
  other.in.weight?: [inner, ~]
  other.out.weight?: [~, %s]
"""


def model() -> State:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layers = {f"net.{i}.up.weight": random(12, 8) for i in range(2)}
    layers |= {f"net.{i}.down.weight": random(8, 12) for i in range(2)}
    ends = {"in.weight": random(8, 5), "out.weight": random(3, 8)}
    return {**ends, **layers, "other.in.weight": random(8, 4), "other.out.weight": random(6, 8)}


def without_other(state: State) -> State:
    """Return the first model of a file alone, its stream in another order."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    rows = ("in.weight", "net.0.down.weight", "net.1.down.weight")
    kept = {n: t for n, t in state.items() if not n.startswith("other.")}
    return {n: (t[order] if n in rows else t[:, order]).contiguous() for n, t in kept.items()}


@pytest.mark.parametrize(("reads", "moves"), [("inner", True), ("stream", False)])
def test_what_shares_no_units_with_the_rest_is_no_head(
    reads: str, moves: bool, tmp_path: Path
) -> None:
    spec = SPEC % reads
    if not moves:
        spec = spec.replace("[inner, ~]", "[~, ~]")
    (tmp_path / "spec.yaml").write_text(spec)
    save(tmp_path / "a.safetensors", model())
    save(tmp_path / "b.safetensors", without_other(model()))
    argv = ("a.safetensors", "b.safetensors", "--spec", "spec.yaml")
    done = rebasin("align", *argv, cwd=tmp_path)
    assert done.code == 0, done.err
    aligned = load(tmp_path / "b.aligned.safetensors")
    assert same(aligned, {n: model()[n] for n in aligned}) == moves
