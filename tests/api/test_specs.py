"""load_spec and trace, and which spec a matching is under."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rebasin_cli as rb
from tests.api.nets import Convolutions, computed, convolutions, copied, mlp, pictures, same

HIDDEN = """\
rebasin: 1
tensors:
  "0.weight": [first, ~]
  "0.bias": [first]
  "2.weight": [~, first]
  "{i:2,4}.bias": [~]
  "4.weight": [~, ~]
"""


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        found: Tensor = self.down(torch.relu(self.up(x))) * scale
        return found


def hidden(tmp_path: Path) -> Path:
    place = tmp_path / "hidden.yaml"
    place.write_text(
        HIDDEN.replace('  "{i:2,4}.bias": [~]\n', '  "2.bias": [~]\n  "4.bias": [~]\n')
    )
    return place


def test_a_spec_is_a_name_a_file_or_a_value(tmp_path: Path) -> None:
    a, b = mlp(0), mlp(1)
    for spec in (hidden(tmp_path), str(hidden(tmp_path)), rb.load_spec(hidden(tmp_path))):
        found = rb.match(a, b, spec=spec)
        assert found.permutations.keys() == {"first"}
    for named in ("mlp", rb.load_spec("mlp")):
        assert rb.match(a, b, spec=named).permutations == rb.match(a, b).permutations


def test_a_trace_is_proved_and_leaves_the_network_alone() -> None:
    net = convolutions(0).train()
    before = copied(net)
    traced = rb.trace(net, pictures())
    assert traced.proof is not None and traced.proof.holds
    assert same(before, net.state_dict()) and net.training
    assert rb.match(net, convolutions(1), spec=traced.spec).spec == traced.spec


CALLS: dict[str, Any] = {
    "a mapping": {"x": torch.ones(3, 4), "scale": 2.0},
    "several": [{"x": torch.ones(3, 4), "scale": 2.0}, {"x": torch.ones(5, 4), "scale": 1.0}],
}


@pytest.mark.parametrize("form", CALLS)
def test_inputs_come_in_any_form(form: str) -> None:
    assert rb.trace(Named(), CALLS[form]).share > 0.5
    assert rb.trace(Convolutions, (pictures(),)).spec == rb.trace(convolutions(0)).spec


def test_networks_are_modules_classes_and_targets() -> None:
    wanted = rb.trace(convolutions(0), pictures()).spec
    assert rb.trace(Convolutions, pictures()).spec == wanted
    assert rb.trace("tests.api.nets:Convolutions", pictures()).spec == wanted
    assert rb.trace(nn.DataParallel(convolutions(0)), pictures()).spec == wanted


class Residual(nn.Module):
    """It has the names and shapes of a chain of layers, which the spec `mlp` is of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> Tensor:
        first, inner, last = self.layers
        x = first(x)
        found: Tensor = last(x + torch.relu(inner(x)))
        return found


def test_a_bundled_spec_that_fits_another_function_is_not_taken() -> None:
    a, b = Residual(), Residual()
    found = rb.match(a, b)
    assert found.permutations.keys() == {"layers.0"}
    x = torch.randn(4, 5)
    assert torch.allclose(computed(b, found.apply(b), x), b.double()(x.double()))
    assert len(rb.match(a.state_dict(), b.state_dict()).permutations) == 2  # nothing tells


def test_a_spec_that_is_traced_fits_names_with_a_prefix() -> None:
    a, b = ({f"net.{n}": t for n, t in convolutions(k).state_dict().items()} for k in (0, 1))
    found = rb.align(a, b, model=Convolutions, inputs=pictures())
    plain = rb.align(convolutions(0), convolutions(1), inputs=pictures())
    assert same(found, {f"net.{name}": tensor for name, tensor in plain.items()})


def test_units_that_a_missing_head_reads_stay() -> None:
    a, b = (convolutions(seed).body.state_dict() for seed in (0, 1))
    found = rb.match(a, b, model=Convolutions, inputs=pictures())
    moved = [len(p.index) for p in found.permutations.values() if p.moved]
    assert moved == [8]
    assert torch.equal(found.apply(b)["3.bias"], b["3.bias"])


class Branching(nn.Module):
    """Uses a layer only where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.more, self.down = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, deep: bool) -> Tensor:
        hidden = torch.relu(self.up(x))
        found: Tensor = self.down(self.more(hidden) if deep else hidden)
        return found


def test_of_several_inputs_all_count() -> None:
    short, long = (torch.ones(3, 4), False), (torch.ones(3, 4), True)
    assert "more.weight" in rb.trace(Branching(), short).unused
    assert rb.trace(Branching(), [short, long]).unused == ()


def test_what_does_not_run_is_refused_with_what_it_said() -> None:
    with pytest.raises(rb.RebasinError, match="does not run on its inputs") as caught:
        rb.trace(convolutions(0), torch.ones(2, 7))
    assert "RuntimeError" in str(caught.value)
    with pytest.raises(TypeError, match="a int is no network"):
        rb.trace(3)  # type: ignore[arg-type]
    with pytest.raises(rb.RebasinError, match="'meta': it cannot be run"):
        rb.trace(nn.Linear(2, 2, device="meta"))


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        found = torch.cond(hidden.sum() > 0, torch.relu, torch.tanh, (hidden,))
        return cast("Tensor", self.down(found))


@pytest.mark.slow
def test_operators_that_take_functions_are_refused_by_name() -> None:
    with pytest.raises(
        rb.RebasinError, match=r"no trace can follow(?s:.*)HigherOrderOperator cond"
    ):
        rb.trace(Conditional(), torch.ones(3, 4))


def test_there_is_no_such_spec(tmp_path: Path) -> None:
    with pytest.raises(rb.RebasinError, match="did you mean 'llama'"):
        rb.load_spec("lama")
    with pytest.raises(rb.RebasinError, match=r"none\.yaml"):
        rb.load_spec(tmp_path / "none.yaml")


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, rows: list[torch.Tensor]) -> torch.Tensor:
        made: torch.Tensor = self.layer(torch.nested.nested_tensor(rows)).to_padded_tensor(0.0)
        return made


def test_a_nested_tensor_is_refused_with_what_to_do() -> None:
    with pytest.raises(rb.RebasinError, match="the model makes a nested tensor") as caught:
        rb.trace(Nested(), ([torch.randn(2, 4), torch.randn(3, 4)],))
    assert "tensors of one length" in str(caught.value)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_layers_without_shapes_are_refused_with_what_to_do() -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))

    def run_once() -> nn.Module:
        net = lazy()
        net(torch.randn(2, 5))
        return net

    for given in (lazy, lazy()):
        with pytest.raises(rb.RebasinError, match="without a shape until it is run") as caught:
            rb.trace(given, torch.randn(2, 5))
        assert "runs it once" in str(caught.value)
    assert rb.trace(run_once, torch.randn(2, 5)).spec


class TwoTasks(nn.Module):
    """Reads one of two heads, as its caller says."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor, *, second: bool = False) -> Tensor:
        found: Tensor = (self.second if second else self.first)(torch.relu(self.up(x)))
        return found


def test_a_head_that_no_traced_call_reads_is_told() -> None:
    net, x = TwoTasks().double(), torch.randn(3, 4, dtype=torch.float64)
    with pytest.warns(rb.RebasinWarning, match=r"no traced call reads second\.weight: .* inputs="):
        rb.match(net, copied(net), model=net, inputs=x)
    both = [{"x": x}, {"x": x, "second": True}]
    assert len(rb.match(net, copied(net), model=net, inputs=both).permutations) == 1  # not told


class Masked(nn.Module):
    """Multiplies its hidden units by a buffer."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("mask", torch.rand(8))
        self.register_buffer("scratch", torch.rand(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(torch.relu(self.up(x)) * self.mask)
        return found


def test_a_glob_that_moves_no_buffer_is_refused() -> None:
    net, x = Masked().double(), torch.randn(3, 4, dtype=torch.float64)
    assert "mask" in rb.trace(net, x, buffers="ma*").explicit.buffers
    for glob in ("masks", "up.*", "scratch"):  # no name, parameters, in no file
        with pytest.raises(rb.RebasinError, match=f"no buffer of the model is called '{glob}'"):
            rb.trace(net, x, buffers=["mask", glob])


class Skips(nn.Module):
    """Reads the first of its heads; the second may read something else."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.heads = nn.Linear(4, 8), nn.ModuleList([nn.Linear(8, 2), nn.Linear(8, 2)])

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.heads[0](torch.relu(self.up(x)))
        return found


def test_members_of_lists_that_move_as_others_do_are_told() -> None:
    net, x = Skips().double(), torch.randn(3, 4, dtype=torch.float64)
    with pytest.warns(rb.RebasinWarning) as told:
        rb.match(net, copied(net), model=net, inputs=x)
    (said,) = map(str, (warning.message for warning in told))
    assert told[0].filename == __file__, "not a line of the library"
    assert "no traced call reads heads.1.weight: it is not proved that they move" in said


class Drawing(nn.Module):
    """Draws numbers of Python and of NumPy, and has a head that training alone reads."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.out, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = torch.relu(self.up(x * random.random() + np.random.random()))
        return (self.out(hidden), self.aux(hidden)) if self.training else (self.out(hidden),)


def test_a_network_that_draws_numbers_outside_torch_draws_the_same_in_every_call() -> None:
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["pos"]
    found = rb.trace(Drawing(), torch.randn(3, 4))
    assert (random.getstate(), np.random.get_state(legacy=False)["state"]["pos"]) == before
    assert found.proof is not None
    assert (found.proof.holds, found.trained, found.unused) == (True, True, ())
