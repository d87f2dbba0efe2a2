"""Folding keeps the function, leaves gains of one, and changes nothing the second time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.symmetry import norm_folding
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import InMemory, infos
from tests.symmetry.small import LAYER_NORM, TEXTS, case, layer_norm, outputs, state_of


@pytest.mark.parametrize("kind", TEXTS)
def test_a_folded_model_computes_the_same(kind: str) -> None:
    found = case(kind)
    before, after = (outputs(found.net, state) for state in (found.state, found.folded))
    assert torch.allclose(before, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", TEXTS)
def test_gains_become_one_and_names_and_shapes_stay(kind: str) -> None:
    found = case(kind)
    folded = found.folded
    assert {n: t.shape for n, t in folded.items()} == {n: t.shape for n, t in found.state.items()}
    for gain in found.plan.norms:
        assert torch.equal(folded[gain], torch.ones_like(folded[gain]))


@pytest.mark.parametrize("kind", TEXTS)
def test_folding_twice_is_folding_once(kind: str) -> None:
    found = case(kind)
    once = found.folded
    twice = replace(found, state=once).folded
    assert all(torch.allclose(once[n], twice[n], rtol=0, atol=1e-13) for n in once)


def test_what_layer_norm_reads_is_written_without_a_mean() -> None:
    folded = case("layer norm").folded
    for name in ("embed.weight", "pos"):
        assert folded[name].mean(-1).abs().max() < 1e-15
    for name in ("0.out.weight", "0.out.bias", "1.down.weight"):
        assert folded[name].mean(0).abs().max() < 1e-15
    assert case("rotary").folded["embed.weight"].mean(-1).abs().max() > 1e-3


def test_the_bias_of_a_norm_stays_where_a_reader_has_none() -> None:
    folded = case("layer norm").folded
    assert folded["norm.bias"].abs().max() > 0  # head has no bias
    assert folded["0.one.bias"].abs().max() == 0  # qkv has


def test_a_gain_of_zero_hides_its_unit_and_nothing_else() -> None:
    found = case("layer norm")
    found.state["norm.weight"][3] = 0
    before, after = (outputs(found.net, state) for state in (found.state, found.folded))
    assert torch.allclose(before, after, rtol=0, atol=1e-10)


def test_a_tied_head_stays_tied_and_says_how_far_off_it_is() -> None:
    found = case("layer norm", tied=True)
    source = FoldedNorms(InMemory(found.state), found.plan)
    error = source.tied_error()
    assert error is not None and 0.1 < error < 1
    assert torch.unique(source.load("norm.weight")).numel() == 1
    even = {**found.state, "norm.weight": torch.full((12,), 1.5, dtype=torch.float64)}
    exact = replace(found, state=even)
    assert FoldedNorms(InMemory(even), found.plan).tied_error() == pytest.approx(0, abs=1e-12)
    before, after = (outputs(found.net, state) for state in (even, exact.folded))
    assert torch.allclose(before, after, rtol=0, atol=1e-10)


def test_a_tied_head_is_looked_at_some_rows_at_a_time(monkeypatch) -> None:
    found = case("layer norm", tied=True)
    source = FoldedNorms(InMemory(found.state), found.plan)
    error, gain = source.tied_error(), source.load("norm.weight")
    monkeypatch.setattr(norm_folding, "ROWS", 36)  # three rows of twelve units, of eleven
    assert source.tied_error() == pytest.approx(error, rel=1e-12)
    assert torch.allclose(source.load("norm.weight"), gain, rtol=1e-12)


def test_a_reader_that_no_norm_names_is_refused() -> None:
    state = state_of(layer_norm(), 0)
    text = LAYER_NORM.replace('readers: ["{i}.up.weight"]', 'readers: ["{i}.qkv.weight"]')
    plan = FoldPlan(bind(parse(text), infos(InMemory(state))))
    with pytest.raises(SpecError, match=r"'0\.up\.weight' reads units that are normalised"):
        plan.check()


def test_a_gain_that_nothing_folds_leaves_its_units_to_permutations() -> None:
    state = state_of(layer_norm(), 0)
    text = LAYER_NORM.replace("norm.weight: {kind: layer", "norm.weigh?: {kind: layer")
    found = FoldPlan(bind(parse(text), infos(InMemory(state))))
    assert found.norms == {}
    assert found.classes["stream"] == "permutation"
    assert found.classes["qk.0"] == "orthogonal"


def test_a_norm_that_nothing_reads_is_refused_where_it_is_folded() -> None:
    state = state_of(layer_norm(), 0)
    text = LAYER_NORM.replace('readers: ["{i}.up.weight"]', 'readers: ["{i}.upp.weight"]')
    plan = FoldPlan(bind(parse(text), infos(InMemory(state))))
    with pytest.raises(SpecError, match=r"no tensor reads the norm '0\.two\.weight'"):
        plan.check()


def test_a_gain_over_units_of_two_groups_is_refused() -> None:
    bound = case("layer norm").plan.bound
    norms = (*bound.norms, replace(bound.norms[0], gain="0.up.weight"))
    with pytest.raises(SpecError, match=r"the gain '0\.up\.weight' has units of 2 groups"):
        FoldPlan(replace(bound, norms=norms)).check()


def test_a_vector_that_is_no_bias_is_taken_for_a_gain() -> None:
    state = {**state_of(layer_norm(), 0), "0.scale": torch.ones(12, dtype=torch.float64)}
    text = LAYER_NORM.replace("tensors:\n", 'tensors:\n  "{i}.scale?": [stream]\n')
    plan = FoldPlan(bind(parse(text), infos(InMemory(state))))
    assert plan.scaled == {"stream": "0.scale"}
    assert plan.classes["stream"] == "permutation"


def test_a_norm_that_adds_one_to_its_gain_folds_the_whole_factor() -> None:
    found = case("rotary")
    shifted = {
        n: t - 1 if n in found.plan.norms else t for n, t in found.state.items()
    }  # as a class stores it that multiplies by 1 + gain
    norms = tuple(replace(norm, offset=1) for norm in found.plan.bound.norms)
    plan = FoldPlan(replace(found.plan.bound, norms=norms))
    source = FoldedNorms(InMemory(shifted), plan)
    for name, folded in found.folded.items():
        gain = name in found.plan.norms
        assert torch.allclose(source.load(name) + gain, folded, rtol=0, atol=1e-14)
