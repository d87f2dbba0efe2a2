"""Networks whose statistics were measured, and a permutation of one of the two models."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.cli.harness import rebasin
from tests.commands.apply.owned import PERM, write_permutation

NETS = """
import torch
from torch import nn
from torch.nn.functional import softmax


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.build()
        self.double()


class Mlp(Doubled):
    def build(self):
        self.up, self.mid = nn.Linear(6, 8), nn.Linear(8, 7, bias=False)
        self.out = nn.Linear(7, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.mid(torch.relu(self.up(x)))))


class Conv(Doubled):
    def build(self):
        self.one, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.two = nn.ConvTranspose2d(6, 5, 2, bias=False)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        return self.out(torch.relu(self.two(x)).mean((2, 3)))


class Attending(Doubled):
    def build(self):
        self.enter, self.qkv = nn.Linear(5, 6), nn.Linear(6, 36)
        self.back, self.out = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.enter(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4)
        seen = softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.out(torch.relu(x + self.back(seen.transpose(1, 2).flatten(2)))).mean(1)


class Experts(Doubled):
    def build(self):
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)) for _ in range(3)
        )

    def forward(self, x):
        shares = softmax(self.gate(x), -1)
        return sum(shares[:, k, None] * expert(x) for k, expert in enumerate(self.experts))


def rows():
    return [(x, torch.zeros(40, dtype=torch.long)) for x in _drawn(40, 6)]


def images():
    return [(x, torch.zeros(8, dtype=torch.long)) for x in _drawn(8, 3, 6, 6)]


def sequences():
    return [(x, torch.zeros(8, dtype=torch.long)) for x in _drawn(8, 4, 5)]


def _drawn(*shape):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator).double() for _ in range(4)]
"""

SPECS = {  # with names of groups that no trace gives
    "Mlp": ("rows", "  up.{weight,bias}: [first]\n  mid.weight: [second, first]\n"
            "  out.weight: [~, second]\n  out.bias: [~]\n"),
    "Conv": ("images", "  one.weight: [first]\n"
             "  norm.{weight,bias,running_mean,running_var}: [first]\n"
             "  norm.num_batches_tracked: []\n"
             "  two.weight: [first, second]\n  out.weight: [~, second]\n  out.bias: [~]\n"
             "transposed: [two.weight]\n"),
    "Attending": ("sequences", "  enter.{weight,bias}: [stream]\n"
                  "  qkv.weight: [heads * dot + heads * dot + heads * value, stream]\n"
                  "  qkv.bias: [heads * dot + heads * dot + heads * value]\n"
                  "  back.weight: [stream, heads * value]\n  back.bias: [stream]\n"
                  "  out.weight: [~, stream]\n  out.bias: [~]\n"
                  "groups:\n  heads: {size: 3}\n  dot: {per: heads}\n  value: {per: heads}\n"),
    "Experts": ("rows", "  gate.{weight,bias}: [expert]\n"
                "  experts.[e].0.{weight,bias}: [expert, inner]\n"
                "  experts.[e].2.weight: [expert, ~, inner]\n"
                "  experts.[e].2.bias: [expert]\ngroups:\n  inner: {per: expert}\n"),
}  # fmt: skip
FILE, MOVED, CARRIED = "s.safetensors", "moved.safetensors", "carried.safetensors"


def build(folder, name):
    (folder / "nets.py").write_text(NETS)
    space: dict[str, Any] = {}
    exec(NETS, space)
    for seed, file in enumerate("ab"):
        torch.manual_seed(seed)
        model = space[name]()
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
        save_file(model.state_dict(), folder / f"{file}.safetensors")
    (folder / "own.yaml").write_text(f"rebasin: 1\nname: own\ntensors:\n{SPECS[name][1]}")
    write_permutation(folder / "b.safetensors", str(folder / "own.yaml"))
    ok(folder, "apply", PERM, "b.safetensors", "-o", MOVED)
    measure(folder, name, "a.safetensors", "b.safetensors", "-o", FILE)
    return folder


def run(folder, *argv):
    return rebasin(*argv, cwd=folder, env={"XDG_CACHE_HOME": str(folder / "cache")})


def ok(folder, *argv):
    done = run(folder, *argv)
    assert done.code == 0, done.err
    return done


def measure(folder, name, *argv):
    target = ("--model", f"nets.py:{name}", "--data", f"nets.py:{SPECS[name][0]}")
    return ok(folder, "statistics", *argv, *target)


def carry(folder, *argv):
    return ok(folder, "apply", PERM, FILE, "--base", "b.safetensors", "--force", *argv)


def assert_alike(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == torch.float64
        assert torch.allclose(tensor, other[name], rtol=1e-9, atol=1e-12), name


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def record(path):
    return json.loads(metadata_of(path)["rebasin.statistics"])
