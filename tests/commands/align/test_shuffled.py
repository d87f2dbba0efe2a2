"""Networks that shuffle their channels, through the command line: traced, read back, aligned."""

from runpy import run_path

import pytest
import torch

from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, infos
from tests.cli.build import load, same, save
from tests.cli.harness import rebasin
from tests.proof import draw, permuted

NET = """
import torch
from torch import nn


def shuffle(x, groups):
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.units = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(3))
        self.into = nn.Conv2d(12, 15, 1, groups=3)
        self.back = nn.Conv2d(15, 12, 1, groups=3)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        for unit in self.units:
            kept, other = x.chunk(2, 1)
            x = shuffle(torch.cat([kept, unit(other).relu()], 1), 2)
        x = x + self.back(shuffle(self.into(x).relu(), 3))
        return self.head(x.relu().mean((2, 3)))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(1)
    net = run_path(str(tmp_path / "net.py"))["Net"]()
    save(tmp_path / "a.safetensors", net.state_dict())
    return tmp_path


def test_a_traced_shufflenet_is_read_back_and_a_planted_order_found(folder):
    shape, env = ("--input-shape", "2,3,6,6"), {"XDG_CACHE_HOME": str(folder / "cache")}
    done = rebasin("spec", "trace", "net.py:Net", *shape, "-o", "s.yaml", cwd=folder, env=env)
    assert done.code == 0, done.err
    text = (folder / "s.yaml").read_text()
    spec = parse(text)
    assert dump(spec) in text and " | " in text
    state = load(folder / "a.safetensors")
    bound = bind(spec, infos(InMemory(state)))
    other = state | permuted(state, bound.tensors, draw(bound, 3))
    assert not same(state, other)
    save(folder / "b.safetensors", other)
    argv = ("a.safetensors", "b.safetensors", "--spec", "s.yaml", "-o", "c.safetensors")
    done = rebasin("align", *argv, cwd=folder)
    assert done.code == 0, done.err
    assert same(load(folder / "c.safetensors"), state)
