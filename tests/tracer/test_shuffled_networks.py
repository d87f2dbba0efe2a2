"""ShuffleNets: two units may change places if one layer writes both and one layer reads both.

What is expected is found without the tracer: by numbered channels that are shuffled as the network
does it, and by trying every exchange on a network small enough for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.trace import trace
from tests.tracer.traps import EXACT, Case, Net, case, noise

Pair = tuple[int, int]


def proved(found: Trace) -> Trace:
    assert found.proof is not None
    assert (found.proof.refuted, found.proof.difference <= EXACT) == ({}, True)
    assert [axis for axis in found.fixed if axis.soft] == []
    return found


# -- published networks ------------------------------------------------------------------------


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Let the channels of groups alternate; channels are the last axis."""
    return x.unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2)


def pieces_of_a_stage(stage: int, units: int, half: int) -> list[int]:
    """Return how many channels each unit of a stage hands on to each layer that reads them.

    A channel is a number that says which branch wrote it; each unit takes the second half away.
    """

    def branch(number: int) -> Tensor:
        return torch.full((half,), number)

    x, taken = shuffle(torch.cat([branch(0), branch(1)]), 2), Counter[Pair]()
    for unit in range(1, units):
        kept, read = x.chunk(2)
        taken.update((writer, unit) for writer in read.tolist())
        x = shuffle(torch.cat([kept, branch(unit + 1)]), 2)
    taken.update((writer, units) for writer in x.tolist())
    return list(taken.values())


def expected(repeats: list[int], channels: list[int]) -> Counter[int]:
    """Return the sizes of all sets of units that may change places among themselves."""
    stem, *stages, last = channels
    sizes = [stem, last]
    for stage, (units, width) in enumerate(zip(repeats, stages, strict=True)):
        sizes += [width // 2] * units  # inside each unit
        sizes += pieces_of_a_stage(stage, units, width // 2)
    return Counter(size for size in sizes if size > 1)


WIDTHS = {
    "shufflenet_v2_x0_5": [24, 48, 96, 192, 1024],
    "shufflenet_v2_x1_0": [24, 116, 232, 464, 1024],
    "shufflenet_v2_x1_5": [24, 176, 352, 704, 1024],
    "shufflenet_v2_x2_0": [24, 244, 488, 976, 2048],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDTHS)
def test_a_shufflenet_moves_in_every_way_it_can(name: str) -> None:
    models = pytest.importorskip("torchvision").models
    examples = tuple(Example((noise(n, 3, 32, 32),), {}) for n in (2, 3))
    found = trace(subject_of(getattr(models, name)(), examples=lambda _: examples))
    groups = proved(found).bound.groups.values()
    assert not any(group.parents or group.fixed for group in groups)
    assert Counter(group.size for group in groups) == expected([4, 8, 4], WIDTHS[name])
    assert parse(dump(found.spec)) == found.spec
    assert bind(found.spec, found.infos).tensors == bind(found.explicit, found.infos).tensors


def layers(into: int, out: int, size: int = 1, step: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(into, out, size, step, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def unit(into: int, out: int, groups: int, step: int) -> nn.Module:
    """Return a unit of ShuffleNet V1; the first convolution of the first one has no groups."""
    width = out // 4

    def run(m: Net, x: Tensor) -> Tensor:
        y = m.inside(m.first(x).relu().unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2))
        y = m.last(y)
        if step == 1:
            return (x + y).relu()
        return torch.cat([nn.functional.avg_pool2d(x, 3, 2, 1), y], 1).relu()

    return Net(
        run,
        first=layers(into, width, groups=1 if into == STEM else groups),
        inside=layers(width, width, 3, step, width),
        last=layers(width, out if step == 1 else out - into, groups=groups),
    )


STEM = 24


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "width"), [(2, 200), (3, 240), (4, 272)])
def test_a_shufflenet_of_groups_moves_all_but_outputs(groups: int, width: int) -> None:
    # Widths of the paper; two units a stage. 3 groups of 20 are shuffled into three of 20 others.
    units, into = [], STEM
    for out in (width, 2 * width, 4 * width):
        units += [unit(into, out, groups, 2), unit(out, out, groups, 1)]
        into = out
    parts = {"stem": layers(3, STEM, 3, 2), "units": nn.Sequential(*units)}
    net = Net(
        lambda m, x: m.head(m.units(m.stem(x).relu()).mean((2, 3))),
        **parts,
        head=nn.Linear(into, 10),
    )
    found = proved(case(net, noise(2, 3, 32, 32), noise(3, 3, 32, 32)).traced())
    tensors = found.bound.tensors
    moved = sum(b.numel for t in tensors for b in t.blocks if any(b.groups))
    assert moved / sum(info.numel for info in found.infos.values()) > 0.9999


# -- every exchange tried ----------------------------------------------------------------------


class Layer(nn.Linear):
    """A linear layer in groups: each reads some of the inputs and writes some of the outputs."""

    def __init__(self, into: int, out: int, groups: int = 1) -> None:
        super().__init__(into // groups, out)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        conv = nn.functional.conv1d(
            x[..., None], self.weight[..., None], self.bias, 1, 0, 1, self.groups
        )
        return conv[..., 0]


def units_of_halves(half: int, count: int) -> Case:
    """ShuffleNet V2: one half is kept, the other goes through two layers, both are shuffled."""

    def run(m, x):
        x = shuffle(torch.cat([m.one(x).tanh(), m.two(x).tanh()], -1), 2)
        for unit in m.units:
            kept, other = x.chunk(2, -1)
            x = shuffle(torch.cat([kept, unit(other).tanh()], -1), 2)
        return m.last(x)

    units = nn.ModuleList(Layer(half, half) for _ in range(count))
    parts = {"one": Layer(3, half), "two": Layer(3, half), "last": Layer(2 * half, 4)}
    return case(Net(run, units=units, **parts), noise(4, 3), noise(5, 3))


def units_of_groups(groups: int, inner: int, stream: int) -> Case:
    """ShuffleNet V1: layers in groups around a shuffle, added to what they read."""

    def run(m, x):
        x = m.first(x).tanh()
        x = (x + m.back(shuffle(m.into(x).tanh(), groups))).tanh()
        return m.last(x)

    parts = {
        "first": Layer(3, stream),
        "into": Layer(stream, inner, groups),
        "back": Layer(inner, stream, groups),
        "last": Layer(stream, 4),
    }
    return case(Net(run, **parts), noise(4, 3), noise(5, 3))


@pytest.mark.parametrize(("groups", "inner"), [(4, 24), (4, 16), (4, 32), (6, 24)])
def test_groups_that_are_shuffled_into_groups(groups: int, inner: int) -> None:
    # Groups of 6 are read as groups of 6: at every second border the row of 4 is cut in the middle.
    found = proved(units_of_groups(groups, inner, 3 * groups).traced())
    writers = torch.arange(groups).repeat_interleave(inner // groups)
    readers = torch.arange(groups).repeat_interleave(inner // groups)
    pieces = Counter(zip(shuffle(writers, groups).tolist(), readers.tolist(), strict=True))
    sizes = [*pieces.values(), *[3] * groups]
    bound = found.bound
    assert Counter(g.size for g in bound.groups.values()) == Counter(n for n in sizes if n > 1)


def exchanges(net: nn.Module, x: Tensor, writer: Layer) -> set[Pair]:
    """Return the pairs of a layer's units that some exchange of two inputs of one layer undoes."""
    before, weight, bias = net(x), writer.weight.clone(), writer.bias.clone()
    found = set()
    for pair in combinations(range(len(bias)), 2):
        writer.weight[list(pair)] = weight[list(pair[::-1])]
        writer.bias[list(pair)] = bias[list(pair[::-1])]
        if any(torch.allclose(net(x), before, rtol=0, atol=1e-9) for _ in readings(net)):
            found.add(pair)
        writer.weight.copy_(weight)
        writer.bias.copy_(bias)
    return found


def readings(net: nn.Module) -> Iterator[None]:
    """Exchange two inputs of one group of one layer, each in turn, and put them back."""
    for layer in net.modules():
        if not isinstance(layer, Layer):
            continue
        for rows in layer.weight.chunk(layer.groups):
            for pair in combinations(range(rows.shape[1]), 2):
                columns = rows[:, list(pair)]
                rows[:, list(pair)] = columns.flip(1)
                try:
                    yield
                finally:
                    rows[:, list(pair)] = columns


def traced_pairs(found: Trace, writer: str) -> set[Pair]:
    """Return the pairs of a layer's units that the traced spec lets change places."""
    bound = found.bound
    (tensor,) = (t for t in bound.tensors if t.members == (f"{writer}.bias",))
    dims = [(b.offset, d) for b in tensor.blocks for d in b.dims if d.group]
    runs = [range(start, start + d.size * d.stride, d.stride) for start, d in dims]
    return {pair for run in runs for pair in combinations(run, 2)}


@pytest.mark.parametrize(
    ("given", "writers"),
    [
        (units_of_halves(5, 2), ["one", "two", "units.0", "units.1"]),
        (units_of_halves(4, 2), ["one", "two", "units.0", "units.1"]),
        (units_of_groups(3, 12, 6), ["into"]),
        (units_of_groups(2, 10, 4), ["into"]),
        (units_of_groups(2, 8, 4), ["into"]),
    ],
    ids=["halves of 5", "halves of 4", "3 groups of 4", "2 groups of 5", "2 groups of 4"],
)
def test_units_move_if_and_only_if_an_exchange_keeps_the_function(
    given: Case, writers: list[str]
) -> None:
    found = proved(given.traced())
    net = given.net.double().requires_grad_(False)
    x = given.calls[0][0][0].double()
    for name in writers:
        layer = net.get_submodule(name)
        assert isinstance(layer, Layer)
        pairs = exchanges(net, x, layer)
        assert pairs and traced_pairs(found, name) == pairs, name
