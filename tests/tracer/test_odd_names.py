"""Keys of a ModuleDict may be any text: their groups are written, read back and applied."""

import pytest
import torch
from torch import nn

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tracer.model_trace import Trace
from tests.cli.build import load, same, save
from tests.cli.harness import rebasin
from tests.tracer.traps import Net, rows

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"a to b": nn.Linear(5, 8), "#größe+|": nn.Linear(8, 3)})

    def forward(self, x):
        return self.parts["#größe+|"](self.parts["a to b"](x).relu())
"""


def traced(*keys: str) -> Trace:
    sizes = zip((5, 8, 6), (8, 6, 3), strict=True)
    parts = nn.ModuleDict({key: nn.Linear(n, m) for key, (n, m) in zip(keys, sizes, strict=True)})

    def run(m, x):
        first, second, third = m.parts.values()
        return third(second(first(x).relu()).relu())

    return rows(Net(run, parts=parts), 2, 5).traced()


@pytest.mark.parametrize(
    "keys",
    [("a b", "a+b", "a|b"), ("#", "#c", "1#"), ("größe", "模型", "e\u0301"), ("~", "a: b", "(x)")],
)
def test_a_spec_of_odd_names_is_read_back(keys):
    found = traced(*keys)
    assert found.proof and found.proof.holds
    assert len(found.bound.groups) == 2
    assert bind(parse(dump(found.spec)), found.infos).groups == found.bound.groups


@pytest.mark.parametrize("key", ["[?]", "{x}", "[e]", "{", "]", "{first}"])
def test_names_that_a_spec_reads_otherwise_are_refused_by_name(key):
    with pytest.raises(SpecError, match=r"no spec can name the tensor") as caught:
        traced("a", key, "c")
    assert repr(f"parts.{key}.weight") in str(caught.value)
    assert "another name" in caught.value.problems[0].hint


def test_a_permutation_of_odd_names_is_saved_and_applied(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    keys = ("a to b", "#größe+|")
    shapes = ((8, 5), (3, 8))
    for file in ("a", "b"):
        weights = {f"parts.{k}.weight": torch.randn(s) for k, s in zip(keys, shapes, strict=True)}
        biases = {f"parts.{k}.bias": torch.randn(s[0]) for k, s in zip(keys, shapes, strict=True)}
        save(tmp_path / f"{file}.safetensors", weights | biases)
    argv = ("--model", "net.py:Net", "--save-permutation", "p.safetensors", "-o", "c.safetensors")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = rebasin("align", "a.safetensors", "b.safetensors", *argv, cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    done = rebasin("apply", "p.safetensors", "b.safetensors", "-o", "d.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert same(load(tmp_path / "c.safetensors"), load(tmp_path / "d.safetensors"))
