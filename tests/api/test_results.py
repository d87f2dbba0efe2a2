"""Results of the library: in any mode of torch, pickled, and in a line."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_cli as rb
from tests.api.nets import convolutions, mlp, pictures, same


def test_results_say_what_they_are_in_a_line(tmp_path: Path) -> None:
    found = rb.match(mlp(0), mlp(1))
    text = repr(found)
    assert text.startswith("<PairMatching: a better order of units was found; distance ")
    assert text.endswith("2 of 2 groups moved, spec mlp>")
    assert found.history[-1] == pytest.approx(found.objective.after)
    told = "<Verified False: model 1, model 2, 6 tensors of another value, spec mlp>"
    assert repr(rb.verify(mlp(0), mlp(1))) == told
    traced = rb.trace(convolutions(0), pictures())
    assert repr(traced) == "<Trace Convolutions: 2 groups, 100% of the values move, proved>"
    path = tmp_path / "a.pt"
    rb.save(mlp(0), path)
    assert repr(rb.open(path)) == f"<Checkpoint {path}: 6 tensors>"


MODES: dict[str, Callable[[], Any]] = {
    "inference": torch.inference_mode,
    "without gradients": torch.no_grad,
    "another device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_torch_changes_no_result(mode: str, tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    rb.save(a, tmp_path / "a.pt")
    wanted = rb.align(a, b, method="sinkhorn")  # which needs gradients
    with MODES[mode]():
        held = {name: tensor + 0 for name, tensor in b.state_dict().items()}
        found = rb.align(a, held if mode != "another device" else b, method="sinkhorn")
        late = rb.lerp(tmp_path / "a.pt", wanted, 1.0).load("0.weight")
        read = rb.open(tmp_path / "a.pt").load("0.weight")
    assert same(found, wanted) and not any(tensor.is_inference() for tensor in found.values())
    assert torch.equal(late, wanted["0.weight"]) and torch.equal(read, a.state_dict()["0.weight"])


def test_a_matching_is_pickled_with_what_it_needs(tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    found = rb.match(a, b, device=torch.device("cpu"))
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert same(again.apply(b), found.apply(b))
    rb.save(b, tmp_path / "b.pt")
    with pytest.raises(TypeError, match=r"rb\.save writes it"):  # and not the file before
        copy.deepcopy(found.apply(tmp_path / "b.pt"))
