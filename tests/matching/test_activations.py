"""Units are matched by what they do on data: alone, beside weights, and group by group."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from rebasin_cli.activations.observe import units_on
from rebasin_cli.activations.units import SIMILARITIES
from rebasin_cli.matching.match_activations import (
    BoundModels,
    PlaceSimilarity,
    covered_roots,
    match_activations,
    places_of_covered_families,
)
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.matching.problem.result import Status
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.network.batches import Batches
from rebasin_cli.permutation import Permutation, inverse
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import silent
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.tensors import InMemory
from rebasin_cli.tracer.points.points import point_kind
from rebasin_cli.tracer.trace import trace
from tests.matching.problems import distance, mlp, objective, random_state, same
from tests.models import EXAMPLES, randomise


class Channels(nn.Module):
    """Convolutions, a flatten, a hidden layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.hidden = nn.Linear(8 * 9, 10)
        self.out = nn.Linear(10, 3)

    def forward(self, x):
        x = nn.functional.softplus(self.first(x))
        x = nn.functional.max_pool2d(nn.functional.softplus(self.second(x)), 2)
        return self.out(torch.tanh(self.hidden(x.flatten(1))))


def pictures(seed):
    return (torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(seed)).double(),)


BUILDS = {"channels": Channels, **{name: example.build for name, example in EXAMPLES.items()}}


def inputs(name, seed):
    return pictures(seed) if name == "channels" else EXAMPLES[name].batch(seed)


def model(name, seed):
    return randomise(BUILDS[name]().double().eval(), seed)


@cache
def traced(name):
    floats = tuple(t.float() if t.is_floating_point() else t for t in inputs(name, 0))
    subject = subject_of(BUILDS[name])
    return trace(replace(subject, examples=lambda model: (Example(floats),)))


def observed(name, one, other, moment="after", reach="all"):
    """Return what two networks do on the same random inputs, enough to reach every unit."""
    found, batches = traced(name), 60 if name == "mlp_sequential" else 6
    return units_on(
        [one, other],
        Batches(lambda: [(inputs(name, seed), None) for seed in range(100, 100 + batches)]),
        found.points[point_kind(moment, reach)],
        found.bound,
        progress=silent,
    )


def alike(units, similarity="inner"):
    return [PlaceSimilarity(one.dims, SIMILARITIES[similarity](one.cross)) for one in units]


def planted(name, seed=1):
    """Return a network, the same in another order, and the permutations that bring it back."""
    one, bound = model(name, seed), traced(name).bound
    permutations = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(seed + 7))
    moved = Permuted(InMemory(one.state_dict()), bound.tensors, permutations)
    other = BUILDS[name]().double().eval()
    other.load_state_dict({key: moved.load(key) for key in moved.names()})
    return one, other, inverse(permutations)


def models(name, one, other, movable=None):
    bound = traced(name).bound
    return BoundModels(InMemory(one.state_dict()), InMemory(other.state_dict()), bound, movable)


# What each has: layers in a chain; convolutions and a flatten; a stream of squares; stages and
# shortcuts; heads with dims in them; grouped queries; recurrent weights; two streams; fixed heads.
NETWORKS = [
    "mlp_sequential",
    "channels",
    "mlp_residual",
    "resnet20_stages",
    "vit_flat",
    "llama",
    "interleaved_groups",
    "lstm",
    "cross_attention",
    "alibi",
]


@pytest.mark.parametrize("moment", ["after", pytest.param("before", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_order_is_recovered_from_activations_alone(name, moment):
    one, other, expected = planted(name)
    units = observed(name, one, other, moment)
    for similarity in ("inner", "covariance", "correlation"):
        found = match_activations(models(name, one, other), alike(units, similarity), Settings())
        assert same(found.permutations, expected)
        assert found.status is Status.EXACT
        assert found.distance.after == 0


def test_a_group_alone_is_one_assignment_on_the_second_moment():
    name = "mlp_sequential"
    one, other = model(name, 1), model(name, 2)
    found = match_activations(
        models(name, one, other), alike(observed(name, one, other)), Settings()
    )
    x = torch.cat([inputs(name, seed)[0] for seed in range(100, 160)])
    for group, layer in (("layer.0", 1), ("layer.2", 3)):
        a, b = one[: layer + 1](x), other[: layer + 1](x)
        moment = (a.T @ b / len(a)).detach().numpy()
        _, columns = linear_sum_assignment(moment, maximize=True)
        mine = found.permutations[group].index.numpy()
        best = moment[range(len(columns)), columns].sum()
        assert moment[range(len(mine)), mine].sum() == pytest.approx(best, rel=1e-9)
        assert found.permutations[group].moved > 0


def test_heads_are_matched_with_the_dims_inside_them():
    """Of all orders of heads, each with its best order of dims, the best is found."""
    name, generator = "vit_flat", torch.Generator().manual_seed(0)
    bound = traced(name).bound
    heads, dims, qk = (f"blocks.0.attn.{part}" for part in ("heads", "vo", "qkv.qk"))
    size, inside = bound.groups[heads].size, bound.groups[dims].size
    values = torch.rand(size * inside, size * inside, generator=generator).double()
    told = [PlaceSimilarity(((heads, size), (group, inside)), values) for group in (dims, qk)]
    one, other = model(name, 1), model(name, 2)
    found = match_activations(models(name, one, other, frozenset({heads})), told, Settings())
    blocks = values.reshape(size, inside, size, inside).numpy()
    cost = torch.zeros(size, size)
    for row in range(size):
        for column in range(size):
            block = blocks[row, :, column]
            cost[row, column] = float(block[linear_sum_assignment(block, maximize=True)].sum())
    best = float(cost.numpy()[linear_sum_assignment(cost.numpy(), maximize=True)].sum())
    order, rows = found.permutations[heads].index, found.permutations[dims].index
    mine = sum(blocks[h, range(inside), int(order[h]), rows[h].numpy()].sum() for h in range(size))
    assert mine == pytest.approx(best)
    assert torch.equal(rows, found.permutations[qk].index)


def test_before_and_after_the_activation_differ():
    name = "mlp_sequential"
    one, other = model(name, 1), model(name, 2)
    found = [
        match_activations(
            models(name, one, other), alike(observed(name, one, other, moment)), Settings()
        )
        for moment in ("after", "before")
    ]
    assert not same(found[0].permutations, found[1].permutations)


# -- beside weights ---------------------------------------------------------------------------


def hidden(seed=3):
    """Return a problem of one group `h` of six units, another model, and a random similarity."""
    problem = mlp(0)
    shapes = {name: tuple(t.shape) for name, t in problem.state.items()}
    values = torch.rand(6, 6, generator=torch.Generator().manual_seed(seed)).double()
    return problem, random_state(shapes, 9), PlaceSimilarity((("h", 6),), values)


def matched(problem, other, told, mix=1.0):
    both = BoundModels(InMemory(problem.state), InMemory(other), problem.bound)
    return match_activations(both, told, Settings(), mix=mix)


def test_the_share_says_who_decides():
    problem, other, told = hidden()
    weights = problem.match(other).permutations
    _, activations = linear_sum_assignment(told.values.numpy(), maximize=True)
    assert same(matched(problem, other, [told], 1e-9).permutations, weights)
    assert matched(problem, other, [told]).permutations["h"].index.tolist() == [*activations]
    assert weights["h"].index.tolist() != [*activations]


@pytest.mark.parametrize("mix", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("places", [1, 3])
def test_both_parts_of_a_blend_could_reach_the_same(mix, places):
    problem, other, told = hidden()
    found = matched(problem, other, [told] * places, mix)
    similarity = torch.zeros(6, 6, dtype=torch.float64)
    scale = 0.0
    for name, axis in (("inp.weight", 0), ("inp.bias", 0), ("out.weight", 1)):
        a, b = (m[name].double().movedim(axis, 0).reshape(6, -1) for m in (problem.state, other))
        similarity += a @ b.T
        scale += float(a.norm() * b.norm())
    blend = ((1 - mix) * similarity + mix * scale * told.values).numpy()
    _, best = linear_sum_assignment(blend, maximize=True)
    assert found.permutations["h"].index.tolist() == [*best]


@pytest.mark.parametrize("mix", [1.0, 0.5])
def test_the_figures_are_those_of_the_weights(mix):
    problem, other, told = hidden()
    found = matched(problem, other, [told], mix)
    still: dict[str, Permutation] = {}
    moved = found.permutations
    assert found.objective.before == pytest.approx(objective(problem, problem.state, other, still))
    assert found.objective.after == pytest.approx(objective(problem, problem.state, other, moved))
    assert found.distance.after == pytest.approx(distance(problem, problem.state, other, moved))
    assert found.method == "activations" and found.status is Status.MOVED
    assert [group.name for group in found.groups] == ["h"]


def test_equal_models_are_said_to_be_equal():
    problem, _, told = hidden()
    assert matched(problem, problem.state, [told]).status is Status.EQUAL


def test_what_may_not_move_does_not():
    name = "mlp_sequential"
    one, other, expected = planted(name)
    only = models(name, one, other, movable=frozenset({"layer.2"}))
    found = match_activations(only, alike(observed(name, one, other)), Settings())
    assert {group for group, p in found.permutations.items() if p.moved} == {"layer.2"}
    assert found.permutations["layer.2"] == expected["layer.2"]


# -- groups that nothing tells of -------------------------------------------------------------


def test_a_group_that_nothing_tells_of_is_matched_on_weights_with_the_others_in_place():
    name = "mlp_sequential"
    one, other = model(name, 1), model(name, 2)
    told = [place for place in alike(observed(name, one, other)) if place.dims[0][0] != "layer.2"]
    both = models(name, one, other)
    found = match_activations(both, told, Settings())
    whole = match_activations(both, alike(observed(name, one, other)), Settings())
    kept = {group: p for group, p in whole.permutations.items() if group != "layer.2"}
    assert {g: p for g, p in found.permutations.items() if g != "layer.2"} == kept
    moved = Permuted(both.other, both.bound.tensors, kept)
    expected = match_weights(
        both.reference, moved, both.bound, movable=frozenset({"layer.2"})
    ).permutations
    assert found.permutations["layer.2"] == expected["layer.2"]
    assert found.permutations["layer.2"] != whole.permutations["layer.2"]


def test_heads_of_which_only_a_part_is_told_are_left_to_the_weights():
    name = "vit_flat"
    one, other, expected = planted(name)
    bound = traced(name).bound
    every = alike(observed(name, one, other))
    partly = [place for place in every if "blocks.1.attn.vo" not in dict(place.dims)]
    assert covered_roots(bound, every) == {group.root for group in bound.groups.values()}
    assert "blocks.1.attn.heads" not in covered_roots(bound, partly)
    assert all(
        "blocks.1.attn.heads" not in dict(one.dims)
        for one in places_of_covered_families(bound, partly)
    )
    found = match_activations(models(name, one, other), partly, Settings())
    assert same(found.permutations, expected)
