"""Files of small transformers that are rotated copies of one another, and code that runs them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.symmetry.small import NETS, Case, case

USER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import torch
from tests.symmetry.small import TOKENS, WORDS, Net, layer_norm, rotary

class Batched(Net):
    def forward(self, tokens):
        return torch.stack([super(Batched, self).forward(row) for row in tokens])

def batches(count=10):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randint(WORDS, (4, TOKENS), generator=generator)

def pairs():
    for tokens in batches(2):
        yield tokens, tokens.roll(1, -1)

def batched(net):
    net.__class__ = Batched
    return net
def with_layer_norm(): return batched(layer_norm())
def with_rotary(): return batched(rotary())
def with_tied_head(): return batched(layer_norm(tied=True))
"""


def model_of(kind: str) -> str:
    """Return what --model has to be in a folder with USER as `user.py`."""
    return f"user.py:with_{kind.replace(' ', '_')}"


def rotated(found: Case, seed: int, noise: float) -> dict[str, Tensor]:
    """Return a folded model, rotated at random, and with some noise on every weight."""
    plan, generator = found.plan, torch.Generator().manual_seed(seed)
    maps = draw_maps(plan.moving.groups.values(), plan.classes, generator)
    moved = Carried(InMemory(found.folded), plan.moving.tensors, maps)
    return {
        name: moved.load(name)
        + noise * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in found.state.items()
    }


def store(path: Path, state: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> None:
    """Write tensors as they are laid out in files of a dtype."""
    save_file({name: value.to(dtype).contiguous() for name, value in state.items()}, path)


def write_copies(
    folder: Path, kind: str, *, noise: float = 0.001, dtype: torch.dtype = torch.float64
) -> Case:
    """Write a model `a`, two rotated copies `b` and `c`, their spec and their code."""
    found = case(kind)
    store(folder / "a.safetensors", found.state, dtype)
    for seed, name in ((1, "b"), (2, "c")):
        store(folder / f"{name}.safetensors", rotated(found, seed, noise), dtype)
    (folder / "my.yaml").write_text(NETS[kind])
    (folder / "user.py").write_text(USER)
    return found
