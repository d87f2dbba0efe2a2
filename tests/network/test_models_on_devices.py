"""Models that are run stay where they are; where a device has no room for a pass, the CPU has."""

import pytest
import torch
from torch import nn

from rebasin_cli.activations.measuring import layer_statistics
from rebasin_cli.errors import DeviceMemoryError, ShortageWarning
from rebasin_cli.network import passes_with_room
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.scoring.scores import cross_entropy_judge
from tests.cli.build import pair
from tests.cli.harness import rebasin

MODULE = """
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 11), nn.ReLU(),
            nn.Linear(11, 9), nn.ReLU(), nn.Linear(9, 4),
        )

    def _apply(self, *args, **kwargs):  # whatever moves a model to a device
        with (HERE / "moves").open("a") as moves:
            moves.write("x")
        return super()._apply(*args, **kwargs)


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        inputs = torch.randn(16, 6, generator=generator)
        yield inputs, inputs[:, :4].argmax(1)
"""
USER = ("--model", "user.py:Net", "--data", "user.py:batches", "--no-cache")
PAIR = ("a.safetensors", "b.safetensors")
COMMANDS = {
    "barrier": ("barrier", *PAIR, "--spec", "mlp", "--steps", "3"),
    "repair": ("barrier", *PAIR, "--spec", "mlp", "--steps", "3", "--renormalize", "repair"),
    "statistics": ("statistics", *PAIR, "-o", "s.safetensors", "-f"),
    "renormalize": ("renormalize", PAIR[0], "--parents", *PAIR, "-o", "r.safetensors", "-f"),
    "straight-through": ("align", *PAIR, "--method", "straight-through", "--epochs", "1", "-f"),
}


SLOW = ("repair", "renormalize")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in COMMANDS]
)
def test_no_batch_moves_a_model(tmp_path, name):
    (tmp_path / "user.py").write_text(MODULE)
    pair(tmp_path)
    moves = []
    for count in ("4", "8"):
        done = rebasin(*COMMANDS[name], *USER, "--batches", count, cwd=tmp_path)
        assert done.code == 0, done.err
        moves.append((tmp_path / "moves").stat().st_size)
        (tmp_path / "moves").unlink()
    assert moves[0] == moves[1] > 0


class Short(nn.Sequential):
    """A network that has no room where it is, until it was moved to the CPU."""

    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.there = True

    def cpu(self):
        self.there = False
        return super().cpu()

    def to(self, *args, **kwargs):
        self.there = True
        return self

    def forward(self, inputs):
        if self.there:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(inputs)


def data(device):
    inputs = torch.randn(3, 16, 6, generator=torch.Generator().manual_seed(1))
    return Batches(lambda: [(rows, rows[:, :4].argmax(1)) for rows in inputs], device=device)


def with_room(model):
    """Return the same network where there is room."""
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    plain.load_state_dict(model.state_dict())
    return plain


def test_a_model_without_room_is_judged_on_the_cpu_and_that_is_told():
    model = Short()
    with pytest.warns(ShortageWarning, match="out of memory on meta: the work goes on"):
        scores = cross_entropy_judge(data("meta"))(model)
    assert scores == cross_entropy_judge(data("cpu"))(with_room(model))
    assert model.there, "it is back on its device"


def test_layers_without_room_are_measured_on_the_cpu_from_the_start(monkeypatch):
    model = Short()
    moved = []
    monkeypatch.setattr(passes_with_room, "_moved", lambda value, device: moved.append(value))
    with pytest.warns(ShortageWarning):
        layer_statistics([model], data("meta"))
    expected = layer_statistics([with_room(model)], data("cpu"))
    (found,) = moved
    assert found.keys() == expected.keys() == {"0"}
    assert all(torch.equal(found[name].means, expected[name].means) for name in found)


def test_what_was_measured_elsewhere_comes_back_to_the_device():
    with pytest.warns(ShortageWarning):
        found = layer_statistics([Short()], data("meta"))
    assert {one.deviations.device.type for one in found.values()} == {"meta"}


def test_on_the_cpu_there_is_nowhere_else_to_go():
    with pytest.raises(DeviceMemoryError) as told:
        cross_entropy_judge(data("cpu"))(Short())
    assert str(told.value) == (
        "the model does not fit into memory\nhint: smaller batches, or --device cpu"
    )
