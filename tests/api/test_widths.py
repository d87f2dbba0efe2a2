"""`rb.widen`: state dicts and files with more units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_cli as rb
from tests.cli.build import load, mlp, same, save


def test_a_state_dict_grows_by_sizes_or_to_another_model() -> None:
    state = mlp(1)
    wide = rb.widen(state, {"hidden.*": 12})
    assert wide["2.weight"].shape == (12, 12) and torch.equal(wide["0.bias"][:8], state["0.bias"])
    assert same(wide, rb.widen(state, mlp(2, (6, 12, 12, 12, 4))))
    assert rb.align(mlp(2, (6, 12, 12, 12, 4)), wide)["0.weight"].shape == (12, 6)


def test_a_file_is_widened_as_it_is_read_and_saved(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", mlp(1))
    rb.save(rb.widen(path, {"hidden.0": 10}), tmp_path / "b.safetensors")
    assert same(load(tmp_path / "b.safetensors"), rb.widen(mlp(1), {"hidden.0": 10}))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(rb.RebasinError, match="no group is called 'h'"):
        rb.widen(mlp(1), {"h": 10})
    half: Any = {"hidden.0": 2.5}
    with pytest.raises(rb.RebasinError, match=r"2\.5 is no number of units"):
        rb.widen(mlp(1), half)


def test_what_only_running_tells_needs_trust(tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(
        "rebasin: 1\nname: s\ntensors:\n  a.weight: [h, ~]\n  n.weight: [h]\n  b.weight: [~, h]\n"
    )
    state = {"a.weight": torch.ones(3, 2), "n.weight": torch.ones(3), "b.weight": torch.ones(4, 3)}
    with pytest.raises(rb.RebasinError, match="only running the model shows"):
        rb.widen(state, {"h": 5}, spec=spec)
    assert rb.widen(state, {"h": 5}, spec=spec, trust=True)["b.weight"].shape == (4, 5)
