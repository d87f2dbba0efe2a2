"""Biases calibrated without data: the law behind it, depths along branches, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.renormalization.bias_calibration import by_depth, by_weights, paths_in_spec
from rebasin_cli.renormalization.bias_paths import paths_to_biases
from rebasin_cli.spec import bind, parse
from rebasin_cli.tensors import InMemory, infos
from rebasin_cli.tracer.recording.capture import record


class Chain(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(4, 6, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(6 * 16, 5),
            nn.ReLU(),
            nn.Linear(5, 3),
        )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.place = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x)) + self.place
        x = torch.relu(x + 0.5 * self.second(torch.relu(self.first(x))))
        x = x + self.third(x)
        return self.head(x.mean((2, 3)))


class With(nn.Module):
    """A network around one thing that may not be homogeneous."""

    def __init__(self, thing):
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.thing = thing
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.thing(self.first(x)))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def recorded(model, *inputs):
    return record(model.eval(), [(inputs, {})])


def seeded(build, seed=0):
    torch.manual_seed(seed)
    return build().eval()


def depths(model, *inputs):
    return {name: len(path) for name, path in paths_to_biases(recorded(model, *inputs)).items()}


def test_depths_count_the_weights_of_a_chain():
    found = paths_to_biases(recorded(seeded(Chain), torch.randn(2, 1, 8, 8)))
    weights = ("0.weight", "3.weight", "8.weight", "10.weight")
    names = ("0.bias", "3.bias", "8.bias", "10.bias")
    assert found == {name: weights[: k + 1] for k, name in enumerate(names)}


@pytest.mark.parametrize("factor", [0.5, 0.8, 3.0])
def test_scaling_weights_by_c_and_biases_by_c_to_their_depth_scales_the_output(factor):
    model, inputs = seeded(Chain).double(), torch.randn(5, 1, 8, 8).double()
    found = depths(model, inputs)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            parameter.mul_(factor ** found[name] if name in found else factor)
        for layer, depth in ((0, 1), (3, 2), (8, 3), (10, 4)):
            one, two = (nn.Sequential(*list(m)[: layer + 1])(inputs) for m in (model, scaled))
            wanted = one * factor**depth  # sums near zero are no more exact than their terms
            torch.testing.assert_close(two, wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


def test_a_stream_keeps_its_depth_at_a_sum_with_a_deeper_branch():
    found = depths(seeded(Residual), torch.randn(2, 1, 8, 8))
    assert found == {
        "stem.bias": 1,
        "place": 1,
        "first.bias": 2,
        "second.bias": 3,
        "third.bias": 2,
        "head.bias": 2,
    }


def test_an_embedding_is_a_weight_and_positions_are_a_bias():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(7, 4)
            self.places = nn.Parameter(torch.randn(3, 4))
            self.learned = nn.Embedding(5, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, tokens):
            return self.last(torch.relu(self.words(tokens) + self.places + self.at(3)))

        def at(self, count):
            return self.learned(torch.arange(count))

    assert depths(seeded(Words), torch.tensor([[1, 2, 3]])) == {
        "places": 1,
        "learned.weight": 1,
        "last.bias": 2,
    }


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (nn.GELU(), "gelu after first.weight: not positively homogeneous"),
        (nn.SiLU(), "silu after first.weight: not positively homogeneous"),
        (nn.Sigmoid(), "sigmoid after first.weight: not positively homogeneous"),
        (nn.Tanh(), "tanh after first.weight: not positively homogeneous"),
        (nn.Softmax(-1), "_softmax after first.weight: not positively homogeneous"),
        (Call(torch.exp), "exp after first.weight: not positively homogeneous"),
        (nn.LayerNorm(4), "native_layer_norm after first.weight: not positively homogeneous"),
        (nn.BatchNorm1d(4), "native_batch_norm after first.weight: not positively homogeneous"),
        (nn.ReLU6(), "after first.weight: not positively homogeneous"),
        (Call(lambda x: x + 1), "add after first.weight: a constant that is not zero"),
        (Call(lambda x: x + torch.ones(4)), "add after first.weight: a constant that is not zero"),
        (Call(lambda x: x * x), "mul after first.weight: a product or quotient of two values"),
        (Call(lambda x: 1 / x), "reciprocal after first.weight: not positively homogeneous"),
        (Call(lambda x: x.clamp(0, 6)), "clamp after first.weight: a bound or filling"),
        (nn.PReLU(), "after first.weight: not positively homogeneous"),
    ],
)
def test_what_is_not_homogeneous_is_refused_by_name(thing, said):
    with pytest.raises(UsageError, match="calibrate is not valid for this network") as caught:
        paths_to_biases(recorded(With(thing), torch.randn(2, 6)))
    assert said in str(caught.value)
    assert "--method rescale" in str(caught.value)


@pytest.mark.parametrize(
    "thing",
    [
        nn.ReLU(),
        nn.LeakyReLU(),
        Call(lambda x: x.clamp(min=0)),
        Call(lambda x: x * 3 / 2),
        Call(lambda x: torch.cat([x[:, :2], x[:, 2:]], 1)),
        Call(lambda x: x + torch.zeros(4)),
        Call(lambda x: -x.view(-1, 2, 2).transpose(1, 2).flatten(1)),
        Call(lambda x: torch.maximum(x, -x)),
    ],
)
def test_what_is_homogeneous_is_allowed(thing):
    assert depths(With(thing), torch.randn(2, 6)) == {"first.bias": 1, "last.bias": 2}


def test_a_layer_at_two_depths_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    with pytest.raises(UsageError, match=r"layer.bias is used at depths 1 and 2"):
        paths_to_biases(recorded(Twice(), torch.randn(2, 4)))


def sources():
    a = {"x.weight": torch.full((2, 2), 2.0), "x.bias": torch.tensor([1.0, 2.0])}
    b = {"x.weight": torch.tensor([[2.0, -2.0], [2.0, -2.0]]), "x.bias": torch.tensor([3.0, 4.0])}
    return [InMemory(a), InMemory(b)]


def test_by_depth_each_bias_is_multiplied_by_a_power_of_its_models_share():
    found = by_depth(sources(), (1, 3), {"x.bias": ("v", "w", "x.weight")})
    wanted = 0.25**3 * torch.tensor([1.0, 2.0]) + 0.75**3 * torch.tensor([3.0, 4.0])
    assert torch.allclose(found["x.bias"], wanted.double())


def test_by_weights_the_mean_bias_shrinks_as_the_mean_weights_do():
    # the two weights are orthogonal and of one length: their mean is shorter by the root of two
    found = by_weights(sources(), (1, 1), {"x.bias": ("x.weight", "x.weight", "y")})
    assert torch.allclose(found["x.bias"], torch.tensor([2.0, 3.0]).double() / 2)


def test_by_weights_the_mean_of_equal_models_stays_as_it_is():
    one = sources()[0]
    found = by_weights([one, one, one], (1, 2, 1), {"x.bias": ("x.weight", "x.weight")})
    assert torch.allclose(found["x.bias"], one.load("x.bias").double())


def bound(tensors, model, head=""):
    lines = "\n".join(f"  {name}: {axes}" for name, axes in tensors.items())
    return bind(parse(f"rebasin: 1\n{head}\ntensors:\n{lines}\n"), infos(InMemory(model)))


def test_a_spec_shows_the_depths_that_the_tracer_finds():
    model = nn.ModuleDict(
        {
            "stem": nn.Linear(6, 4),
            "up": nn.Linear(4, 5),
            "down": nn.Linear(5, 4),
            "head": nn.Linear(4, 3),
        }
    )
    spec = {
        "stem.weight": "[stream, ~]",
        "stem.bias": "[stream]",
        "up.weight": "[inner, stream]",
        "up.bias": "[inner]",
        "down.weight": "[stream, inner]",
        "down.bias": "[stream]",
        "head.weight": "[~, stream]",
        "head.bias": "[~]",
    }
    found = paths_in_spec(bound(spec, model.state_dict()))
    assert found == {
        "stem.bias": ("stem.weight",),
        "up.bias": ("stem.weight", "up.weight"),
        "down.bias": ("stem.weight", "up.weight", "down.weight"),
        "head.bias": ("stem.weight", "head.weight"),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm.weight": "[stream]"}, "norm.weight is not the bias of a layer"),
        ({"stem.running_var": "[stream]"}, "stem.running_var is a statistic of a norm"),
        ({"head.weight": "[~, ~]"}, "head reads units that the spec holds fixed"),
    ],
)
def test_specs_that_do_not_show_a_chain_are_refused(change, said):
    tensors = {
        "stem.weight": torch.randn(4, 6),
        "stem.bias": torch.randn(4),
        "mid.weight": torch.randn(4, 4),
        "head.weight": torch.randn(3, 4),
    }
    spec = {
        "stem.weight": "[stream, ~]",
        "stem.bias": "[stream]",
        "mid.weight": "[stream, stream]",
        "head.weight": "[~, stream]",
    }
    more = {name: torch.randn(4) for name in change if name not in tensors}
    with pytest.raises(UsageError, match="calibrate cannot tell from the spec") as caught:
        paths_in_spec(bound(spec | change, tensors | more))
    assert said in str(caught.value)


class Grouped(nn.Module):
    """The middle layer has two groups of channels, that it does not mix."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.mid = nn.Conv2d(4, 6, 3, groups=2)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = torch.relu(self.mid(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Matrix(nn.Module):
    """Two matrices (h, d), each for units of its own."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(2, 5, 3)), nn.Parameter(torch.randn(10))

    def forward(self, x):
        rows = torch.bmm(x.view(-1, 2, 3).transpose(0, 1), self.weight.transpose(1, 2))
        return (rows + self.bias.view(2, 1, 5)).transpose(0, 1).flatten(1)


class Batched(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(4, 6), Matrix(), nn.Linear(10, 2)

    def forward(self, x):
        return self.head(torch.relu(self.mid(torch.relu(self.stem(x)))))


class Depthwise(nn.Module):
    def __init__(self, mid):
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 4, 3), mid, nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.mid(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


GROUPED = {
    "stem.weight": "[g * i, ~, ~, ~]",
    "stem.bias": "[g * i]",
    "mid.weight": "[g * o, i, ~, ~]",
    "mid.bias": "[g * o]",
    "head.weight": "[~, g * o]",
    "head.bias": "[~]",
}
BATCHED = {
    "stem.weight": "[g * i, ~]",
    "stem.bias": "[g * i]",
    "mid.weight": "[g, o, i]",
    "mid.bias": "[g * o]",
    "head.weight": "[~, g * o]",
    "head.bias": "[~]",
}
BETWEEN = {
    "stem.weight": "[c, ~, ~, ~]",
    "stem.bias": "[c]",
    "mid.weight": "[c, ~, ~, ~]",
    "mid.bias": "[c]",
    "head.weight": "[~, c]",
    "head.bias": "[~]",
}
CHAIN = {"stem.bias": 1, "mid.bias": 2, "head.bias": 3}
IMAGES = (3, 3, 8, 8)


def scales(model, inputs, found):
    """Return whether biases times c to their depths scale the output by c to that of the last."""
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            parameter.mul_(0.5 ** found.get(name, 1))
        return torch.allclose(scaled(inputs), model(inputs) * 0.5 ** found["head.bias"])


@pytest.mark.parametrize(
    ("build", "spec", "head", "shape"),
    [
        (Grouped, GROUPED, "groups: {g: {size: 2}, i: {per: g}, o: {per: g}}", IMAGES),
        (Batched, BATCHED, "groups: {g: {size: 2}, i: {per: g}, o: {per: g}}", (3, 4)),
    ],
)
def test_units_that_groups_count_together_have_the_depth_that_scales(build, spec, head, shape):
    model, inputs = seeded(build).double(), torch.randn(shape).double()
    found = paths_in_spec(bound(spec, model.state_dict(), head))
    counts = {name: len(path) for name, path in found.items()}
    assert counts == CHAIN == depths(model, inputs)
    assert scales(model, inputs, counts)
    assert not scales(model, inputs, counts | {"head.bias": 2})  # the fewest that write any of g


@pytest.mark.parametrize(
    ("layer", "head"),
    [(nn.Conv2d, ""), (nn.ConvTranspose2d, "transposed: [mid.weight]")],
)
def test_a_spec_with_a_depthwise_layer_between_others_is_refused_for_it_is_not_skipped(layer, head):
    model, inputs = seeded(lambda: Depthwise(layer(4, 4, 3, groups=4))), torch.randn(IMAGES)
    model, inputs = model.double(), inputs.double()
    with pytest.raises(UsageError, match="mid may be a depthwise convolution") as caught:
        paths_in_spec(bound(BETWEEN, model.state_dict(), head))
    assert "stem" not in str(caught.value)
    assert depths(model, inputs) == CHAIN
    assert scales(model, inputs, CHAIN)
    assert not scales(model, inputs, CHAIN | {"head.bias": 2})  # the fewest that write c


def test_layers_of_one_channel_at_both_ends_are_no_depthwise_ones():
    shapes = {"first": (4, 1, 3, 3), "mid": (5, 4, 1, 1), "last": (5, 1, 3, 3)}
    spec = {"first": "[c, ~, ~, ~]", "mid": "[d, c, ~, ~]", "last": "[d, ~, ~, ~]"}
    tensors = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    tensors["last.bias"] = torch.randn(1)
    lines = {f"{name}.weight": axes for name, axes in spec.items()} | {"last.bias": "[~]"}
    found = paths_in_spec(bound(lines, tensors, "transposed: [last.weight]"))
    assert found == {"last.bias": ("first.weight", "mid.weight", "last.weight")}


def test_an_axis_of_which_nothing_is_known_is_refused():
    spec = {"a.weight": "[c, ~]", "b.weight": "[~, c, ~]", "d.weight": "[~, ~, c]"}
    shapes = {"a.weight": (4, 3), "b.weight": (2, 4, 3), "d.weight": (2, 3, 4)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    with pytest.raises(UsageError, match="what d does with the units of c is not clear"):
        paths_in_spec(bound(spec, tensors))


def test_patterns_say_which_tensors_are_transposed():
    spec = {"l.0.weight": "[~, a]", "l.1.weight": "[a, b]", "l.2.weight": "[b, ~]"}
    spec |= {"l.0.bias": "[a]", "l.1.bias": "[b]", "l.2.bias": "[~]"}
    shapes = {"l.0.weight": (3, 4), "l.1.weight": (4, 5), "l.2.weight": (5, 2)}
    shapes |= {"l.0.bias": (4,), "l.1.bias": (5,), "l.2.bias": (2,)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    found = paths_in_spec(bound(spec, tensors, 'transposed: ["l.{i}.weight"]'))
    assert {name: len(path) for name, path in found.items()} == {
        "l.0.bias": 1,
        "l.1.bias": 2,
        "l.2.bias": 3,
    }
