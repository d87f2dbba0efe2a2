"""What holds of the scores of related models: laws, and what they say of networks trained apart."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_cli as rb
from rebasin_cli.commands.related.convex_means import convex_fit
from rebasin_cli.commands.related.copies import Marks, Stored, marks_of
from rebasin_cli.commands.related.frames import PairFrame
from rebasin_cli.commands.related.gauge_free import GaugeFree, matrices_of
from rebasin_cli.commands.related.kin import Kin, kin_of
from rebasin_cli.commands.related.kinship_plot import kinship_figure, relatives_together
from rebasin_cli.commands.related.nearness import MatrixScore, Nearness
from rebasin_cli.errors import UsageError
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.library import load_spec
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory, infos
from tests.cli.build import shuffled
from tests.commands.related.related_nets import base, fresh, scaled, trained
from tests.proof import draw
from tests.symmetry.small import NETS, case

SHARED = Path(__file__).parents[4] / "shared" / "checkpoints"
APART: dict[str, dict[str, Any]] = {
    "vit_small": {"spec": "preln-vit", "sizes": {"heads": 4}},
    "char_gpt": {"spec": "preln-gpt", "sizes": {"heads": 4}},
    "resnet20_bn_x1": {"spec": "resnet20-cifar"},
    "mlp_512x3": {"spec": "mlp"},
}


def perceptron_bound():
    return bind(load_spec("mlp"), infos(InMemory(base())))


def free(state, bound, classes=None):
    """Return the matrices of a state without scales and bases."""
    classes = classes or dict.fromkeys(bound.groups, "permutation")
    source = GaugeFree(InMemory(state), matrices_of(bound), classes)
    return {name: source.load(name) for name in source.names()}


def test_what_is_free_of_scales_is_permuted_as_the_weights_are():
    state, bound = base(), perceptron_bound()
    permutations = draw(bound, 3)
    moved = Permuted(InMemory(state), bound.tensors, permutations)
    after = free({name: moved.load(name) for name in state}, bound)
    before = Permuted(InMemory(free(state, bound)), bound.tensors, permutations)
    assert all(torch.allclose(after[n], before.load(n).to(after[n]), atol=1e-12) for n in after)


def test_scales_of_units_change_nothing_that_is_free_of_them():
    state, bound = base(), perceptron_bound()
    one, two = free(state, bound), free(scaled(state), bound)
    assert all(torch.allclose(one[n], two[n], atol=1e-4) for n in one if "weight" in n)
    square = one["2.weight"].square()
    assert torch.allclose(square.mean(0), torch.ones(48).double(), atol=1e-6)
    assert torch.allclose(square.mean(1), torch.ones(40).double(), atol=1e-4)


@pytest.mark.parametrize("kind", NETS)
def test_what_is_free_of_bases_is_rotated_as_the_weights_are(kind):
    net = case(kind, d=24)
    bound, classes = net.plan.moving, net.plan.classes
    maps = draw_maps(bound.groups.values(), classes, torch.Generator().manual_seed(2))
    moved = Carried(InMemory(net.folded), bound.tensors, maps)
    after = free({name: moved.load(name) for name in net.state}, bound, classes)
    before = Carried(InMemory(free(net.folded, bound, classes)), bound.tensors, maps)
    for name in (name for t in matrices_of(bound).tensors if t.votes for name in t.members):
        assert torch.allclose(after[name], before.load(name), atol=1e-8), name


def test_the_nearest_mean_is_the_nearest_of_those_of_all_sets_of_points():
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        points = torch.randn(6, 8, generator=generator, dtype=torch.float64) + 0.5
        h = points @ points.mT
        shares = convex_fit(h)
        assert float(shares.sum()) == pytest.approx(1)
        assert float(shares.min()) >= 0
        chosen = (list(c) for size in range(1, 7) for c in combinations(range(6), size))
        alone = [torch.linalg.inv(h[some][:, some]).sum(1) for some in chosen]
        least = min(1 / float(x.sum()) for x in alone if float(x.min()) >= 0)
        assert float(shares @ h @ shares) == pytest.approx(least)


@pytest.mark.parametrize(
    ("levels", "quantised"), [(7, True), (127, True), (2**23, False)], ids=["4 bits", "8", "24"]
)
def test_weights_that_are_few_steps_are_told_from_others(levels, quantised):
    weights = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)).double()
    steps = weights.abs().amax(1, keepdim=True) / levels
    found = marks_of(InMemory({"w": (weights / steps).round() * steps}), ["w"])
    assert found.quantised is quantised


def test_the_library_says_what_the_command_does():
    one = base()
    tuned = shuffled(trained(one, 5))
    kinship = rb.related([one, tuned, fresh(9)])
    assert [pair.kin for pair in kinship.pairs] == [Kin.TRAINED, Kin.INDEPENDENT, Kin.INDEPENDENT]
    assert kinship.pair(2, 1) is kinship.pairs[2]
    assert kinship.merges == ()
    shown = {text.get_text() for text in kinship_figure(kinship).axes[0].texts}
    assert f"{kinship.pairs[0].excess:.2f}" in shown
    assert len(kinship_figure(kinship).axes[0].texts) == 6


def test_relatives_are_drawn_beside_one_another():
    one, other = base(), base(1)
    kinship = rb.related([one, other, trained(one, 5), trained(other, 5), trained(one, 6)])
    order = relatives_together(kinship)
    assert ({*order[:3]}, {*order[3:]}) == ({0, 2, 4}, {1, 3})
    labels = [text.get_text() for text in kinship_figure(kinship).axes[0].get_yticklabels()]
    assert labels == [f"model {number + 1}" for number in order]


def test_what_never_moved_is_seen_where_the_search_is_misled(monkeypatch):
    wrong = draw(perceptron_bound(), 5)
    monkeypatch.setattr(PairFrame, "finder", lambda *_, **__: lambda a, b: GroupMaps(wrong, {}))
    other = {name: values + 0.01 * values.std() for name, values in base().items()}
    (pair,) = rb.related([base(), other], spec="mlp").pairs
    assert pair.kin is Kin.TRAINED


def test_one_model_is_no_pair():
    with pytest.raises(UsageError, match="related takes 2 models or more, not 1"):
        rb.related([base()])
    alone: Any = base()
    with pytest.raises(TypeError, match="models: expected several, in a list"):
        rb.related(alone)


@pytest.mark.parametrize(
    ("score", "kin"),
    [
        (0.2, Kin.INDEPENDENT),
        (0.4, Kin.UNCLEAR),
        (0.48, Kin.UNCLEAR),  # no matrix descends from its counterpart
        (0.5, Kin.TRAINED),
    ],
)
def test_between_fine_tunes_and_independent_runs_nothing_is_said(score, kin):
    near = Nearness((MatrixScore("w", score, 0.0, 100, anchored=False),), GroupMaps({}, {}))
    marks = Marks(0.0, 0.0)
    assert kin_of(Stored(1, ("w",), ("w",), 1.0, 1.0, 1.0), near, (marks, marks)) is kin
    assert kin.related is (kin is Kin.TRAINED)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")
@pytest.mark.parametrize("name", APART)
def test_networks_that_were_trained_apart_are_never_related(name):
    for seeds in combinations(range(3), 2):
        files = [SHARED / f"{name}_s{seed}.safetensors" for seed in seeds]
        (pair,) = rb.related(files, **APART[name]).pairs
        assert pair.kin is Kin.INDEPENDENT
        assert pair.excess < 0.2
