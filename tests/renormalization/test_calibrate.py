"""Biases calibrated without data: the law behind it, depths along branches, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.renormalization.bias_calibration import by_depth, by_weights
from rebasin_cli.renormalization.bias_paths import paths_to_biases
from rebasin_cli.tensors import InMemory
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
    assert "`rescale` needs data" in str(caught.value)


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
