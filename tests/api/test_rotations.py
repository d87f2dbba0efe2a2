"""fold and rotate: models in one frame, each with the function that it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rebasin_cli as rb
from tests.cli.harness import rebasin
from tests.symmetry.small import NETS, TOKENS, WORDS, case, layer_norm, rotary, state_of
from tests.tracer.class_nets import D, Net

TOLD = 1e-5  # what float32 makes of the outputs


def net(kind: str, seed: int) -> Any:
    made = rotary() if kind == "rotary" else layer_norm()
    made.load_state_dict(state_of(made, seed))
    return made.float()


def spec_of(kind: str) -> Any:
    return case(kind).plan.bound.spec


def outputs(model: Any, state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    model.load_state_dict(state)
    with torch.no_grad():
        found: Tensor = model(tokens)
    return found


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(WORDS, (TOKENS,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", NETS)
def test_a_folded_model_has_the_same_function_and_gains_of_one(kind: str, tokens: Tensor) -> None:
    model = net(kind, 0)
    before = model(tokens).detach()
    folded = rb.fold(model, spec=spec_of(kind))
    assert list(folded) == list(model.state_dict())
    assert torch.equal(folded["norm.weight"], torch.ones_like(folded["norm.weight"]))
    assert far(before, outputs(model, folded, tokens)) < TOLD


@pytest.mark.parametrize("kind", NETS)
def test_rotated_models_keep_their_functions_and_come_together(kind: str, tokens: Tensor) -> None:
    models = [net(kind, seed) for seed in range(3)]
    before = [model(tokens).detach() for model in models]
    moved = rb.rotate(models, ref=1, spec=spec_of(kind))
    for model, state, wanted in zip(models, moved, before, strict=True):
        assert far(wanted, outputs(model, state, tokens)) < TOLD
    alone = rb.fold(net(kind, 1), spec=spec_of(kind))
    assert all(torch.equal(moved[1][name], alone[name]) for name in alone)


def test_a_rotated_copy_comes_back(tokens: Tensor) -> None:
    found = case("rotary")
    state = {name: tensor.float() for name, tensor in found.state.items()}
    copies = rb.rotate([state, rb.rotate([net("rotary", 5), state], spec=spec_of("rotary"))[1]],
                       spec=spec_of("rotary"))  # fmt: skip
    mean = rb.merge(copies, strategy="none")
    for name, tensor in copies[0].items():
        assert float((tensor - mean[name]).abs().max()) < 1e-5 * float(tensor.abs().max()), name


@pytest.mark.parametrize("gains", [True, False])
def test_a_module_is_traced_where_no_spec_fits(gains: bool) -> None:
    models = [Net(lambda: nn.LayerNorm(D, elementwise_affine=gains)) for _ in range(2)]
    words = torch.randint(17, (2, 5))
    moved = rb.rotate(models, inputs=words)
    with torch.no_grad():
        before = models[1](words)
        models[1].load_state_dict(moved[1])
        assert far(before, models[1](words)) < TOLD


def test_files_are_those_of_the_command(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save_file(net("rotary", seed).state_dict(), tmp_path / f"{name}.safetensors")
    (tmp_path / "my.yaml").write_text(NETS["rotary"])
    done = rebasin(
        *("align", "a.safetensors", "b.safetensors", "--spec", "my.yaml"),
        *("--symmetry", "orthogonal"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    paths = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    moved = rb.rotate(paths, spec=str(tmp_path / "my.yaml"))
    rb.save(moved[0], tmp_path / "one.safetensors")
    rb.save(moved[1], tmp_path / "two.safetensors")
    for made, written in (("one", "a.folded"), ("two", "b.aligned")):
        one, other = (load_file(tmp_path / f"{n}.safetensors") for n in (made, written))
        assert all(torch.equal(one[name], other[name]) for name in other)
    with rb.open(tmp_path / "one.safetensors") as opened:
        assert '"folded":true' in opened.metadata["rebasin"].replace(" ", "")
    folded = tmp_path / "one.safetensors"
    again = rb.fold(str(folded), spec=str(tmp_path / "my.yaml"))
    assert torch.equal(again.load("norm.weight"), load_file(folded)["norm.weight"])


def test_what_cannot_be_rotated_is_refused() -> None:
    relu = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    with pytest.raises(rb.RebasinError, match="allows nothing but permutations"):
        rb.rotate([relu, relu])
    with pytest.raises(rb.RebasinError, match="says of no norm how it folds"):
        rb.fold(relu)
    with pytest.raises(rb.RebasinError, match="ref 2: there are 2 models, the first is 0"):
        rb.rotate([relu, relu], ref=2)
    with pytest.raises(TypeError, match="models: expected several, in a list"):
        rb.rotate(relu)
    models = [net("rotary", 0), net("rotary", 1)]
    with pytest.raises(rb.RebasinError, match="rotated by their weights, not method 'sinkhorn'"):
        rb.rotate(models, spec=spec_of("rotary"), method="sinkhorn")
