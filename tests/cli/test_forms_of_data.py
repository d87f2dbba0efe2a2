"""Loaders of every form behind the commands that run a model."""

import json

import pytest

from tests.cli.build import pair
from tests.cli.harness import rebasin

CODE = """
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        widths = (6, 8, 11, 9, 4)
        layers = [m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
        super().__init__(*layers[:-1])

def drawn():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        yield torch.randn(16, 6, generator=generator), torch.randint(4, (16,), generator=generator)

def plain():
    yield from drawn()

def triple():
    for x, y in drawn():
        yield x, F.one_hot(y, 4).float(), torch.arange(16)

def named():
    for x, y in drawn():
        yield {"pixel_values": x.numpy(), "labels": y[:, None].numpy()}

def lost():
    for x, y in drawn():
        yield {"a": x, "b": x, "labels": y}
"""
PAIR = ["a.safetensors", "b.safetensors"]
COMMANDS = {
    "barrier": ["barrier", *PAIR, "--steps", "3"],
    "statistics": ["statistics", "a.safetensors", "-o", "s.safetensors"],
    "renormalize": [
        *("renormalize", "a.safetensors", "--method", "rescale", "--parents", *PAIR),
        *("-o", "r.safetensors"),
    ],
    "straight-through": [
        *("align", *PAIR, "--method", "straight-through", "--epochs", "1"),
        *("-o", "o.safetensors"),
    ],
    "activations": ["align", *PAIR, "--method", "activations", "-o", "o.safetensors"],
}


def run(folder, command, data):
    pair(folder)
    (folder / "net.py").write_text(CODE)
    options = ["--model", "net.py:Net", "--data", f"net.py:{data}", "--json", "--no-cache"]
    return rebasin(*COMMANDS[command], *options, cwd=folder)


def found(done):
    """Return what a command found: its results without times and digests of provenance."""
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.lines]
    for event in events:
        for name in ("seconds", "sha256", "bytes", "data", "spec", "of"):
            event.pop(name, None)
    return [event for event in events if event["event"] == "result"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("data", ["triple", "named"])
def test_a_command_finds_the_same_in_every_form(tmp_path, command, data):
    for name in ("plain", data):
        (tmp_path / name).mkdir()
    expected, got = (found(run(tmp_path / name, command, name)) for name in ("plain", data))
    assert _rounded(got) == _rounded(expected)


def test_barrier_finds_the_same_in_a_dictionary(tmp_path):
    for name in ("plain", "named"):
        (tmp_path / name).mkdir()
    expected, got = (found(run(tmp_path / name, "barrier", name)) for name in ("plain", "named"))
    assert _rounded(got) == _rounded(expected)


@pytest.mark.parametrize("command", ["barrier", "activations"])
def test_what_is_not_plain_is_told_with_the_batch(tmp_path, command):
    done = run(tmp_path, command, "lost")
    assert done.code == 3
    assert "batch 1 of net.py:lost: the model takes no a, b" in done.err
    assert "--evaluate FILE.py:FUNCTION" in done.err
    assert "--input-shape" not in done.err


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
