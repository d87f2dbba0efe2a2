"""merge by the methods that run the models: what the command makes, from modules and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rebasin_cli as rb
from tests.api.nets import copied, same
from tests.cli.harness import rebasin

NET = f"from {__name__} import Net, batches\n"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner = nn.Linear(6, 8), nn.Linear(8, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(torch.relu(self.inner(torch.relu(self.enter(x)))))
        return found


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    targets = torch.zeros(40, dtype=torch.long)
    return [(torch.randn(40, 6, generator=generator), targets) for _ in range(2)]


ASKED: tuple[dict[str, Any], ...] = (
    {"method": "zipit"},
    {"method": "cca"},
    {"method": "least-squares", "width": 1.5},
)


def nets() -> list[Net]:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(Net())
    return found


@pytest.mark.parametrize(
    "asked",
    [ASKED[0], pytest.param(ASKED[1], marks=pytest.mark.slow), ASKED[2]],
    ids=["zipit", "cca", "least-squares"],
)
def test_a_merge_is_the_one_of_the_command(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    models = nets()
    for name, net in zip("ab", models, strict=True):
        save_file(net.state_dict(), tmp_path / f"{name}.safetensors")
    words = [str(word) for key, value in asked.items() for word in (f"--{key}", value)]
    done = rebasin(
        "merge", "a.safetensors", "b.safetensors", *words, "--model", "net.py:Net", "--data",
        "net.py:batches", cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.code == 0, done.err
    wanted = load_file(tmp_path / "merged.safetensors")
    before = [copied(net) for net in models]
    torch.manual_seed(5)
    found = rb.merge(models, data=batches, **asked)
    drawn = torch.rand(1)
    assert list(found) == list(before[0]) and all(map(same, before, map(copied, models)))
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in found)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    late = rb.merge(paths, data=batches(), model=Net, **asked)
    rb.save(late, tmp_path / "late.safetensors")
    saved = load_file(tmp_path / "late.safetensors")
    assert all(torch.allclose(saved[name], wanted[name], atol=1e-6) for name in wanted)


def test_a_wider_merge_of_two_unlike_models_is_nearer_to_what_they_do() -> None:
    a, b = nets()
    x = torch.cat([x for x, _ in batches()])
    with torch.no_grad():
        wanted = (a(x) + b(x)) / 2
    misses = []
    for width in (1.0, 2.0):
        state = rb.merge([a, b], method="least-squares", width=width, data=batches)
        misses.append(missed(state, x, wanted))
    assert misses[1] < misses[0]


def missed(state: dict[str, Tensor], x: Tensor, wanted: Tensor) -> float:
    """Return how far the answers of a model of any width are from others."""
    net = nn.Sequential()
    for name in ("enter", "inner", "leave"):
        layer = nn.Linear(*state[f"{name}.weight"].shape[::-1])
        layer.load_state_dict({n: state[f"{name}.{n}"] for n in ("weight", "bias")})
        net.extend([layer, nn.ReLU()])
    with torch.no_grad():
        found: Tensor = net[:-1](x)
    return float((found - wanted).square().mean())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "zipit"}, "there is no data to run the model on"),
        ({"method": "zipit", "data": [1], "weights": [1, 2]}, "takes no weights"),
        ({"data": [1]}, "data is for the methods that run models"),
        ({"width": 1.5}, "width= is for method='least-squares'"),
        ({"method": "least-squares", "width": 3.0, "data": [1]}, "from 1 to 2 widths"),
        ({"method": "cca", "data": [1], "combine": "ties"}, "goes with the mean of the models"),
    ],
)
def test_what_does_not_go_together_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(rb.RebasinError, match=said):
        rb.merge(nets(), **asked)


def test_files_alone_need_a_model() -> None:
    states = [net.state_dict() for net in nets()]
    with pytest.raises(rb.RebasinError, match="a model has to be run"):
        rb.merge(states, method="zipit", data=batches)
