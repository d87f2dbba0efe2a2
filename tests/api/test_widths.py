"""`rb.widen`: state dicts and files with more units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_cli as rb
from tests.cli.build import load, mlp, same, save
from tests.cli.harness import rebasin


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
    with pytest.raises(rb.RebasinError, match=r"only running the(?s:.*)where outputs stay: trust="):
        rb.widen(state, {"h": 5}, spec=spec)
    wide = rb.widen(state, {"h": 5}, spec=spec, trust=True)
    with pytest.raises(
        rb.RebasinError, match=r"hint: where outputs stay: align\(a, widen\(b, a, tru"
    ):
        rb.align(wide, state, widen=True, spec=spec)
    assert rb.widen(state, {"h": 5}, spec=spec, trust=True)["b.weight"].shape == (4, 5)


class Gated(nn.Module):
    """Units weighed by their mean, which zeros among them lower; no tensor tells."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.enter(x))
        found: torch.Tensor = self.leave(h * h.mean(-1, keepdim=True))
        return found


def test_a_network_that_is_given_is_run_to_see_whether_new_units_do_nothing() -> None:
    net = Gated()
    for how in ({"model": net}, {"inputs": torch.randn(4, 5)}):
        with pytest.raises(rb.RebasinError, match="the model computes something else"):
            rb.widen(net, {"enter": 9}, **how)
    with pytest.raises(rb.RebasinError, match="the model computes something else"):
        rb.align(Gated(9), net, widen=True, inputs=torch.randn(4, 5))
    assert rb.widen(net, {"enter": 9}, trust=True)["leave.weight"].shape == (3, 9)


def test_a_narrower_model_is_aligned_as_on_the_command_line(tmp_path: Path) -> None:
    wide, narrow = mlp(2, (6, 12, 12, 12, 4)), mlp(1)
    a, b = save(tmp_path / "a.safetensors", wide), save(tmp_path / "b.safetensors", narrow)
    done = rebasin("align", a, b, "--widen", "--trust", "-o", "c.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    found = rb.align(wide, narrow, widen=True)
    assert same(found, load(tmp_path / "c.safetensors"))
    assert narrow["0.weight"].shape == (8, 6)
    rb.save(rb.align(a, b, widen=True), tmp_path / "d.safetensors")
    assert same(load(tmp_path / "d.safetensors"), found)
    assert same(rb.align(wide, wide, widen=True), wide)
    with pytest.raises(rb.RebasinError, match="it is wider than model 1"):
        rb.align(narrow, wide, widen=True)


def test_a_narrower_module_is_aligned_by_the_trace_of_the_wider_one() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, width), nn.Linear(width, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.leave(torch.relu(self.enter(x)))
            return found

    a, b, x = Net(9), Net(6), torch.randn(4, 5)
    found = rb.align(a, b, widen=True, inputs=x)
    after = Net(9)
    after.load_state_dict(found)
    assert torch.allclose(after(x), b(x), atol=1e-6)
    again = rb.match(a, found, inputs=x)
    assert again.distance.before == again.distance.after
