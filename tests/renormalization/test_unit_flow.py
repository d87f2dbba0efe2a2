"""Depths of biases that a spec shows: the tracer's depths, with which the law of scales holds."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.renormalization.bias_calibration import paths_in_spec
from rebasin_cli.renormalization.bias_paths import paths_to_biases
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, infos
from rebasin_cli.tracer.recording.capture import record
from tests.renormalization.families import seeded


def depths(model, *inputs):
    found = paths_to_biases(record(model, [(inputs, {})]))
    return {name: len(path) for name, path in found.items()}


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
PER_GROUP = "groups: {g: {size: 2}, i: {per: g}, o: {per: g}}"
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
    ("build", "spec", "shape"),
    [
        (Grouped, GROUPED, IMAGES),
        (Batched, BATCHED, (3, 4)),
    ],
    ids=["grouped convolution", "batch of matrices"],
)
def test_units_that_groups_count_together_have_the_depth_that_scales(build, spec, shape):
    model, inputs = seeded(build, 0).double(), torch.randn(shape).double()
    found = paths_in_spec(bound(spec, model.state_dict(), PER_GROUP))
    counts = {name: len(path) for name, path in found.items()}
    assert counts == CHAIN == depths(model, inputs)
    assert scales(model, inputs, counts)
    assert not scales(model, inputs, counts | {"head.bias": 2})  # the fewest that write any of g


@pytest.mark.parametrize(
    ("layer", "head"),
    [(nn.Conv2d, ""), (nn.ConvTranspose2d, "transposed: [mid.weight]")],
    ids=["convolution", "transposed"],
)
def test_a_spec_with_a_depthwise_layer_between_others_is_refused_for_it_is_not_skipped(layer, head):
    model, inputs = seeded(lambda: Depthwise(layer(4, 4, 3, groups=4)), 0), torch.randn(IMAGES)
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
    sizes = (3, 4, 5, 2)
    tensors = {f"l.{k}.weight": torch.randn(sizes[k], sizes[k + 1]) for k in range(3)}
    tensors |= {f"l.{k}.bias": torch.randn(sizes[k + 1]) for k in range(3)}
    found = paths_in_spec(bound(spec, tensors, 'transposed: ["l.{i}.weight"]'))
    assert {name: len(path) for name, path in found.items()} == {
        "l.0.bias": 1,
        "l.1.bias": 2,
        "l.2.bias": 3,
    }
