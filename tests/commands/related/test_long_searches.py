"""`rebasin related` where searches are cut short or left out, or models not kept in memory."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import rebasin_cli as rb
from rebasin_cli.commands.related import frames
from rebasin_cli.commands.related.frames import frame_of_orders
from rebasin_cli.commands.related.kin import Kin
from rebasin_cli.commands.related.nearness import FreePair, free_pair
from rebasin_cli.commands.related.null_values import among_noise, null_of_sample
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.progress import silent
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.cli.build import mlp, shuffled
from tests.commands.related.related_nets import base, scaled, trained
from tests.symmetry.rotated_files import rotated, store
from tests.symmetry.small import NETS, case

BASE = cache(base)(0)


def swapped(state):
    """Return a copy with two units of a layer in each other's place."""
    order = torch.arange(40)
    order[[3, 7]] = order[[7, 3]]
    return {
        **state,
        "2.weight": state["2.weight"][order],
        "2.bias": state["2.bias"][order],
        "4.weight": state["4.weight"][:, order],
    }


def relation(*models, **options):
    (pair,) = rb.related(list(models), spec="mlp", **options).pairs
    return pair


@pytest.mark.parametrize(
    ("other", "kin"),
    [
        (lambda: shuffled(BASE), Kin.PERMUTED),
        (lambda: shuffled(scaled(BASE)), Kin.RESCALED),
        (lambda: shuffled(scaled(trained(BASE, 5))), Kin.TRAINED),
        (lambda: base(1), Kin.INDEPENDENT),
    ],
)
def test_a_search_that_is_cut_short_says_the_same(other, kin, monkeypatch):
    monkeypatch.setattr(frames, "CHEAP", 0)
    assert relation(BASE, other()).kin is kin


@pytest.mark.parametrize("noise", [0, 0.1])
def test_a_rotated_relative_is_told_by_a_search_that_is_cut_short(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "CHEAP", 0)
    net = case("rotary", d=24)
    (tmp_path / "my.yaml").write_text(NETS["rotary"])
    store(tmp_path / "a.safetensors", net.state)
    store(tmp_path / "b.safetensors", rotated(net, 1, noise))
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    (pair,) = rb.related(files, spec=tmp_path / "my.yaml").pairs
    assert pair.kin is (Kin.TRAINED if noise else Kin.ROTATED)


def test_where_nothing_moved_nothing_is_searched(monkeypatch):
    def refuse(pair):
        raise AssertionError(pair)

    monkeypatch.setattr(FreePair, "found", refuse)
    generator = torch.Generator().manual_seed(0)
    tuned = {n: v + 0.1 * v.std() * torch.randn(v.shape, generator=generator)
             for n, v in BASE.items()}  # fmt: skip
    assert relation(BASE, tuned).kin is Kin.TRAINED


def test_two_units_that_changed_place_are_seen_in_a_copy_that_is_near_as_it_is():
    pair = relation(BASE, swapped(BASE))
    assert (pair.kin, pair.moved) == (Kin.PERMUTED, 2)
    assert relation(BASE, swapped(scaled(BASE))).kin is Kin.RESCALED


def test_models_that_are_not_kept_in_memory_are_as_near():
    tuned = shuffled(scaled(trained(BASE, 5)))
    pairs = [relation(BASE, tuned, max_memory=size).nearness for size in (1 << 30, 1)]
    kept, read = ([m.cosine for m in near.matrices] for near in pairs if near)
    assert read == kept


def test_a_sample_of_noise_comes_to_what_all_of_it_does():
    one, two = (InMemory(mlp(seed, (60, 300, 260, 200, 10))) for seed in (0, 1))
    bound = bind(load_spec("mlp"), infos(one))
    frame = frame_of_orders(bound, frozenset(bound.groups))
    settings = Settings(effort="quick")
    pair = free_pair(one, two, frame, settings, silent)
    both = pair.first, pair.second
    whole = among_noise(both, pair.frame, pair.finder(pair.frame), 0)
    sample = null_of_sample(both, pair.frame, pair.finder, 0.4, 0)
    assert sample.keys() == whole.keys()
    for name in ("2.weight", "4.weight"):
        assert sample[name] == pytest.approx(whole[name].cosine, abs=0.025)
