"""apply: files of maps, and states of optimizers, as the command moves them."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rebasin_cli as rb
from tests.api.nets import Convolutions, convolutions, copied, memories, mlp, pictures, same
from tests.cli.harness import rebasin
from tests.commands.apply.owned import moved_model, write_case
from tests.symmetry.small import NETS, outputs

SOME = "the state of training"


@pytest.mark.parametrize("kind", NETS)
def test_a_file_of_maps_does_what_it_does_on_the_command_line(kind: str, tmp_path: Path) -> None:
    net, state = write_case(tmp_path, kind)
    maps, before = tmp_path / "perm.safetensors", copied(state)
    found = rb.apply(maps, state)
    wanted = moved_model(tmp_path / "base.safetensors")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    assert same(state, before) and list(found) == list(state)
    assert torch.allclose(outputs(net, found), outputs(net, state), rtol=1e-8, atol=1e-8)
    late = rb.apply(maps, tmp_path / "base.safetensors")
    rb.save(late, tmp_path / "late.safetensors")
    saved = load_file(tmp_path / "late.safetensors")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in saved.items())
    assert not same(found, state)
    back = rb.apply(maps, found, inverse=True)
    assert torch.allclose(outputs(net, back), outputs(net, state), rtol=1e-8, atol=1e-8)


def trained(net: nn.Module, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    step(net, optimizer, steps)
    return optimizer


def step(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x = pictures(8).to(next(net.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("named", ["module", "matching", "file"])
def test_training_goes_on_from_a_permuted_model_and_optimizer(named: str, tmp_path: Path) -> None:
    a, b = convolutions(0).double(), convolutions(1).double()
    optimizer = trained(b)
    found: Any = rb.match(a, b, inputs=pictures().double())
    before = copy.deepcopy(optimizer.state_dict())
    if named != "matching":
        rb.save(found, tmp_path / "p.safetensors")
    permutation = found if named == "matching" else tmp_path / "p.safetensors"
    torch.save(b.state_dict(), tmp_path / "b.pt")
    base: Any = {"module": b, "matching": None, "file": str(tmp_path / "b.pt")}[named]
    moved: Any = rb.apply(permutation, optimizer.state_dict(), base=base)
    assert repr(before) == repr(optimizer.state_dict())
    back: Any = rb.apply(permutation, moved, base=base, inverse=True)
    for key, moments in before["state"].items():
        assert same(moments, back["state"][key])
    other: Any = Convolutions().double().train(b.training)
    other.load_state_dict(found.apply(b))
    going_on = torch.optim.AdamW(other.parameters(), lr=0.01)
    going_on.load_state_dict(moved)
    for net, its in ((b, optimizer), (other, going_on)):
        step(net, its, 4)
    wanted = found.apply(b)
    for name, tensor in other.state_dict().items():
        assert torch.allclose(tensor, wanted[name], rtol=1e-9, atol=1e-12), name
    held = [memories(*s["state"].values()) for s in (moved, optimizer.state_dict())]
    assert not held[0] & held[1]


@pytest.mark.slow
def test_an_optimizer_is_moved_as_on_the_command_line(tmp_path: Path) -> None:
    a, b = convolutions(0), convolutions(1)
    optimizer = trained(b)
    rb.save(rb.match(a, b), tmp_path / "p.safetensors")
    torch.save(b.state_dict(), tmp_path / "b.pt")
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    done = rebasin("apply", "p.safetensors", "o.pt", "--base", "b.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    wanted = torch.load(tmp_path / "o.permuted.pt", weights_only=True)
    moved = tmp_path / "p.safetensors"
    found: Any = rb.apply(moved, optimizer.state_dict(), base=b.state_dict())
    assert all(same(found["state"][k], wanted["state"][k]) for k in wanted["state"])
    assert found["param_groups"] == wanted["param_groups"]


def test_an_adapter_follows_what_match_found_as_it_does_a_file(tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    found = rb.match(a, b)
    rb.save(found, tmp_path / "p.safetensors")
    out, into = b.state_dict()["0.weight"].shape
    lora = {"0.lora_A.weight": torch.randn(2, into), "0.lora_B.weight": torch.randn(out, 2)}
    moved = rb.apply(found, lora)
    assert same(moved, rb.apply(tmp_path / "p.safetensors", lora, base=b))
    assert not same(moved, lora)
    assert same(rb.apply(found, moved, inverse=True), lora)


@pytest.mark.parametrize("form", ["matching", "file"])
def test_some_tensors_of_a_model_follow(form: str, tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    found = rb.match(a, b)
    rb.save(found, tmp_path / "p.safetensors")
    permutation = found if form == "matching" else tmp_path / "p.safetensors"
    masks = {"0.weight": b.state_dict()["0.weight"] > 0}
    assert same(rb.apply(permutation, masks), {"0.weight": found.apply(b)["0.weight"] > 0})
    whole = {name: tensor > 0 for name, tensor in b.state_dict().items()}
    moved = {name: tensor > 0 for name, tensor in found.apply(b).items()}
    assert same(rb.apply(permutation, whole), moved)
    complex_ = {name: tensor + 1j for name, tensor in b.state_dict().items()}
    with suppress(rb.RebasinError):
        moved = {name: tensor + 1j for name, tensor in found.apply(b).items()}
        assert same(rb.apply(permutation, complex_), moved)
    anything: Any = found.permutations
    with pytest.raises(TypeError, match="permutation: a mappingproxy is none"):
        rb.apply(anything, b)


def test_what_follows_no_weight_is_kept_if_that_is_wanted(tmp_path: Path) -> None:
    found = rb.match(mlp(0), mlp(1))
    state = trained_mlp()
    state["state"][0]["preconditioner"] = torch.randn(3, 3)
    with pytest.raises(rb.RebasinError, match="keep_unknown=True leaves it"):
        rb.apply(found, state)
    with pytest.warns(rb.RebasinWarning, match="kept as it is"):
        kept = rb.apply(found, state, keep_unknown=True)
    assert repr(kept) == repr(state)


@pytest.mark.parametrize("base", ["matching", "file"])
def test_an_optimizer_without_moments_stays(base: str, tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    found: Any = rb.match(a, b)
    rb.save(found, tmp_path / "p.safetensors")
    state: Any = torch.optim.SGD(b.parameters(), lr=0.1).state_dict()
    permutation = found if base == "matching" else tmp_path / "p.safetensors"
    assert rb.apply(permutation, state, base=None if base == "matching" else b) == state


def test_a_model_itself_takes_no_base(tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    found = rb.match(a, b)
    rb.save(found, tmp_path / "p.safetensors")
    for permutation in (found, tmp_path / "p.safetensors"):
        with pytest.raises(rb.RebasinError, match=r"is a model itself(?s:.*)leave out base"):
            rb.apply(permutation, b, base=a)


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    found = rb.match(convolutions(0), convolutions(1))
    other = trained_mlp()
    with pytest.raises(rb.RebasinError, match=f"(?s){SOME}.*in no order do their shapes fit"):
        rb.apply(found, other)
    _, _ = write_case(tmp_path, "rotary")
    with pytest.raises(rb.RebasinError, match="which do not follow a rotation"):
        rb.apply(tmp_path / "perm.safetensors", other, base=tmp_path / "base.safetensors")


def trained_mlp() -> dict[str, Any]:
    net = mlp(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(3, 6)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()
