"""Where in a pass the units of each group are looked at, and what is seen there."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.spec.language.expression import dump_expression
from rebasin_cli.spec_choice.trace_format import TracedModel, dump_model, load_model
from rebasin_cli.tracer.points import observe_points as under_test
from rebasin_cli.tracer.points.observe_points import Units, observing, units_at
from rebasin_cli.tracer.points.points import MOMENTS, REACHES, point_kind
from rebasin_cli.tracer.trace import trace
from tests.models import EXAMPLES


def traced_on(build, *inputs, recorded=1):
    """Return the trace of a class, fed with some tensors. Several tuples: several passes."""
    fed = [one if isinstance(one, tuple) else (one,) for one in inputs]
    subject = replace(subject_of(build), examples=lambda model: tuple(map(Example, fed)))
    return trace(subject, recorded=recorded)


@cache
def known(name):
    chosen = EXAMPLES[name]
    floats = (t.float() if t.is_floating_point() else t for t in chosen.batch())
    return traced_on(chosen.build, tuple(floats))


def places(found, moment="after", reach="last"):
    """Return what is seen, as (operator, turn, tensor, groups, axes)."""
    return [
        (p.operator, p.turn, p.operand, p.groups, [dump_expression(axis) for axis in p.axes])
        for p in found.points[point_kind(moment, reach)]
    ]


def test_hidden_units_are_seen_where_the_next_layer_reads_them():
    assert places(known("mlp_sequential"))[0] == (
        *("addmm", 1, 1, ("layer.0",)),
        ["5", "layer.0"],
    )


def test_before_the_activation_is_what_the_nonlinearity_is_given():
    before = places(known("mlp_sequential"), "before")
    assert before[0] == ("relu", 0, 0, ("layer.0",), ["5", "layer.0"])


def test_a_stream_is_seen_at_its_end():
    found = places(known("char_gpt"))
    assert found[-1] == ("mm", 0, 0, ("stream",), ["18", "stream"])
    assert sum("stream" in groups for *_, groups, _ in found) == 1


def test_all_of_a_stream_is_seen_where_each_layer_reads_it_once():
    for name, operators in (
        ("char_gpt", ["addmm"] * 6 + ["mm"]),  # attention and hidden layer of 3 blocks, the head
        ("llama", ["mm"] * 5),  # queries, keys and values are given one tensor; no sum of a norm
        ("mlp_residual", ["addmm"]),  # square layers give the stream back; the head uses it up
    ):
        found = places(known(name), reach="all")
        stream = [place for place in found if place[3][0].endswith("stream")]
        assert [operator for operator, *_ in stream] == operators
        assert stream[-1] == next(p for p in places(known(name)) if p[3][0].endswith("stream"))


def test_hidden_units_that_one_layer_reads_are_seen_once():
    assert places(known("vgg11"), reach="all") == places(known("vgg11"))


def test_a_stage_of_a_resnet_is_seen_where_the_next_stage_begins():
    stages = [place for place in places(known("resnet20_stages")) if "stream" in place[3][0]]
    assert [operator for operator, *_ in stages] == ["convolution", "convolution", "addmm"]


def test_channels_before_a_flatten_have_their_positions_as_samples():
    found = {place[3]: place[4] for place in places(known("vgg11"))}
    assert found["features.18",] == ["2", "features.18 * 49"]


def test_heads_are_seen_with_the_dims_inside_them():
    found = places(known("vit_flat"))
    heads = [place for place in found if place[3][0].startswith("blocks.0.attn")]
    assert [(operator, operand) for operator, _, operand, *_ in heads] == [
        ("bmm", 0),
        ("bmm", 1),
        ("addmm", 1),
    ]
    names = "blocks.0.attn.heads", "blocks.0.attn.vo"
    assert heads[2][3] == names and heads[2][4] == ["10", " * ".join(names)]


def test_a_group_that_no_nonlinearity_sees_is_seen_before_as_after():
    found = known("char_gpt")
    assert places(found, "before")[-1] == places(found)[-1]


@pytest.mark.parametrize("name", ["mlp_residual", "llama", "interleaved_groups", "lstm", "alibi"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("reach", REACHES)
def test_every_group_that_may_move_is_seen(name, moment, reach):
    found = known(name)
    seen = {group for point in found.points[point_kind(moment, "last")] for group in point.groups}
    assert seen >= {g.name for g in found.bound.groups.values() if not g.fixed}


def test_no_point_is_a_parameter():
    for name in ("mlp_residual", "char_gpt", "cross_attention"):
        for point in known(name).points["after last"]:
            weights = point.operator in ("addmm", "mm") and point.operand == (
                2 if point.operator == "addmm" else 1
            )
            assert not weights


class Routed(nn.Module):
    """Rows that are sent to one of two experts, by what a router says."""

    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(6, 8)
        self.router = nn.Linear(8, 2)
        self.up = nn.ModuleList(nn.Linear(8, 5) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(5, 8) for _ in range(2))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = self.inp(x)
        best = self.router(x).argmax(-1)
        made = torch.zeros_like(x)
        for k in range(2):
            rows = (best == k).nonzero().flatten()
            made.index_add_(0, rows, self.down[k](F.gelu(self.up[k](x[rows]))))
        return self.out(x + made)


def test_rows_that_a_router_chose_are_not_compared():
    found = traced_on(Routed, torch.randn(9, 6))
    seen = {group for point in found.points["after last"] for group in point.groups}
    groups = {g.name for g in found.bound.groups.values()}
    assert {"up.0", "up.1", "stream"} <= groups
    assert seen == {"stream"}  # also at its end, where what the experts made was added


class TokenMixer(nn.Module):
    """Tokens mixed by a layer of its own, beside channels that may change places."""

    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(4, 6)
        self.mix = nn.Linear(5, 7)
        self.back = nn.Linear(7, 5)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        x = self.inp(x)
        x = x + self.back(F.gelu(self.mix(x.transpose(1, 2)))).transpose(1, 2)
        return self.out(x)


def test_units_that_are_never_alone_are_seen_beside_the_others():
    found = traced_on(TokenMixer, torch.randn(2, 5, 4))
    by_group = {
        p.groups: [dump_expression(axis) for axis in p.axes] for p in found.points["after last"]
    }
    assert by_group["inp",] == ["10", "inp"]
    assert by_group["mix",] == ["2 * inp", "mix"]


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.extra = nn.Linear(6, 6)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        if len(x) > 5:
            hidden = torch.relu(self.extra(hidden))
        return self.last(hidden)


def test_only_the_first_of_several_recorded_passes_counts():
    found = traced_on(Branching, torch.randn(2, 4), torch.randn(8, 4), recorded=2)
    assert {point.calls for point in found.points["after last"]} == {2}  # addmm, in the short pass


def test_points_are_kept_with_the_trace():
    found = known("cross_attention")
    again = load_model(dump_model(TracedModel("x", found, found.spec, {}, ()), sources={}))
    assert again.trace.points == found.points


# -- looking ----------------------------------------------------------------------------------


def look(found, model, *inputs, moment="after"):
    """Return the units at each point of one pass, by the groups."""
    points = found.points[point_kind(moment, "last")]
    seen: dict[tuple[str, ...], list[Units]] = {}

    def see(number, value):
        for units in units_at(points[number], value, found.bound.groups):
            seen.setdefault(points[number].groups, []).append(units)

    with observing(model, points, see):
        model(*inputs)
    return seen


def test_what_is_seen_is_what_a_hook_sees():
    found, model = known("mlp_sequential"), EXAMPLES["mlp_sequential"].model(3)
    assert isinstance(model, nn.Sequential)
    x = torch.randn(11, 6, dtype=torch.float64)
    (units,) = look(found, model, x)["layer.0",]
    assert units.dims == (("layer.0", 8),)
    assert torch.equal(units.samples, torch.relu(model[0](x)))
    (units,) = look(found, model, x, moment="before")["layer.0",]
    assert torch.equal(units.samples, model[0](x))


def test_a_value_that_is_overwritten_is_seen_as_it_was():
    class InPlace(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))

    found, model = traced_on(InPlace, torch.randn(2, 4)), InPlace()
    x, point = torch.randn(7, 4), found.points["before last"][0]
    assert point.operator == "relu_"
    (units,) = look(found, model, x, moment="before")[point.groups]
    seen = units.samples.clone()  # it is a view of what relu_ has written into by now
    assert torch.equal(seen, torch.relu(model[0](x)))

    def see(number, value):
        seen.copy_(units_at(point, value, found.bound.groups)[0].samples)

    with observing(model, [point], see):
        model(x)
    assert torch.equal(seen, model[0](x))


def test_positions_of_a_picture_are_samples():
    found, model = known("vgg11"), EXAMPLES["vgg11"].model(3)
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    seen = look(found, model, x)
    assert seen["features.0",][0].samples.shape == (3 * 32 * 32, 4)
    assert seen["features.18",][0].samples.shape == (3 * 49, 32)


def test_a_wider_batch_and_longer_text_have_the_same_units():
    found, model = known("char_gpt"), EXAMPLES["char_gpt"].model(3)
    seen = look(found, model, torch.randint(17, (3, 7)))
    names = "blocks.0.attn.heads", "blocks.0.attn.vo"
    (units,) = seen[names]
    assert units.dims == ((names[0], 4), (names[1], 6))
    assert units.samples.shape == (21, 24)
    q, k = seen["blocks.0.attn.qkv.qk",]
    assert q.dims == k.dims and q.samples.shape == k.samples.shape == (21, 24)


def test_a_group_that_is_gone_is_like_a_fixed_axis():
    found, model = known("vit_flat"), EXAMPLES["vit_flat"].model(3)
    point = next(p for p in found.points["after last"] if "blocks.0.attn.vo" in p.groups)
    kept = {name: g for name, g in found.bound.groups.items() if name == "blocks.0.attn.heads"}
    seen = []

    def see(number, value):
        seen.extend(units_at(point, value, kept))

    with observing(model, [point], see):
        model(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert [(units.dims, units.samples.shape) for units in seen] == [
        ((("blocks.0.attn.heads", 4),), (10 * 6, 4))
    ]


def test_families_that_multiply_to_too_many_units_are_not_looked_at(monkeypatch):
    found, model = traced_on(TokenMixer, torch.randn(2, 5, 4)), TokenMixer()
    x = torch.randn(3, 5, 4)
    (units,) = look(found, model, x)["mix",]
    assert units.dims == (("inp", 6), ("mix", 7)) and units.samples.shape == (3, 42)
    monkeypatch.setattr(under_test, "CROSSED", 41)
    assert look(found, model, x).keys() == {("inp",)}


def test_a_pass_that_runs_other_operators_is_refused():
    found, model = traced_on(Branching, torch.randn(2, 4)), Branching()
    with (
        pytest.raises(UserCodeError, match="does not run as it did when it was traced") as raised,
        observing(model, found.points["after last"], lambda number, value: None),
    ):
        model(torch.randn(8, 4))
    assert raised.value.problems[0].detail == "it calls addmm 3 times, then it was 2 times"


def test_a_value_of_other_axes_is_refused():
    (point,) = traced_on(Branching, torch.randn(2, 4)).points["after last"]
    groups = traced_on(Branching, torch.randn(2, 4)).bound.groups
    with pytest.raises(UserCodeError, match=r"addmm is given has the shape \(2, 5\)"):
        units_at(point, torch.zeros(2, 5), groups)
