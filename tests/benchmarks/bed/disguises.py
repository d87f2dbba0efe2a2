"""Copies of trained networks that hide what they are, and what else is made of one by its weights.

All of them take the weights of a network and return others. The first five compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.files.inputs import open_models
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.options.selection import Selection
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import InMemory
from tests.benchmarks.bed.judge import State
from tests.benchmarks.bed.networks import Network

Move = Callable[[Network, Path, State], dict[str, Tensor]]

HEADS = 4
SMALLEST, LARGEST = 0.25, 4.0  # scales of units
RANK = 4
LEVELS = 127  # of 8 bits, on each side of zero


def permuted(network: Network, path: Path, state: State, seed: int = 0) -> dict[str, Tensor]:
    """Return a state with every group of a network permuted at random. path: a file of its form."""
    selection = Selection(spec=network.spec, sizes=network.sizes)
    models = open_models([path], selection)
    bound = choose_spec(models, selection).bound
    drawn = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(seed))
    moved = Permuted(InMemory(state), bound.tensors, drawn)
    return {name: moved.load(name).contiguous() for name in state}


def rotated(network: Network, path: Path, state: State, seed: int = 0) -> dict[str, Tensor]:
    """Return a state folded, and moved by random maps of every class, in its dtypes."""
    selection = Selection(spec=network.spec, sizes=network.sizes)
    models = open_models([path], selection)
    plan = plan_folding(choose_spec(models, selection), models)
    generator = torch.Generator().manual_seed(seed)
    maps = draw_maps(plan.moving.groups.values(), plan.classes, generator)
    moved = Carried(FoldedNorms(InMemory(state), plan), plan.moving.tensors, maps)
    return {name: moved.load(name).to(v.dtype).contiguous() for name, v in state.items()}


def scaled_perceptron(state: State) -> dict[str, Tensor]:
    """Return layers.{i} with each hidden ReLU unit scaled, and divided where it is read."""
    made = {name: value.clone() for name, value in state.items()}
    count = sum(name.endswith("weight") for name in made)
    for k in range(count - 1):
        scale = _scales(len(made[f"layers.{k}.bias"]), k)
        made[f"layers.{k}.weight"] *= scale[:, None]
        made[f"layers.{k}.bias"] *= scale
        made[f"layers.{k + 1}.weight"] /= scale
    return made


def scaled_channels(state: State, pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Return convolutions with each channel scaled, which the batch norm behind it takes back.

    pairs: of names, the convolution's and the norm's.
    """
    made = {name: value.clone() for name, value in state.items()}
    for k, (convolution, norm) in enumerate(pairs):
        scale = _scales(len(made[f"{norm}.weight"]), k)
        made[f"{convolution}.weight"] *= scale[:, None, None, None]
        if f"{convolution}.bias" in made:
            made[f"{convolution}.bias"] *= scale
        made[f"{norm}.running_mean"] *= scale
        made[f"{norm}.running_var"] *= scale.square()
    return made


def invertible_pairs(state: State, seed: int = 0) -> dict[str, Tensor]:
    """Return fused attention with queries times R, keys R^-T, values S, and outputs S^-1.

    Of every head its own random matrices, the attack of Merge-Lock (arXiv 2509.01548).
    """
    generator = torch.Generator().manual_seed(seed)
    made = {name: value.double() for name, value in state.items()}
    for name in [n for n in made if n.endswith("attn.qkv.weight")]:
        stem = name.removesuffix("qkv.weight")
        for h in range(HEADS):
            _mix_head(made, stem, h, generator)
    return {name: value.to(state[name].dtype).contiguous() for name, value in made.items()}


def _mix_head(made: dict[str, Tensor], stem: str, head: int, generator: torch.Generator) -> None:
    """Mix the dims of one head in place."""
    width = len(made[f"{stem}proj.weight"])
    dims = width // HEADS
    r, s = (_invertible(dims, generator) for _ in range(2))
    for part, matrix in enumerate((r, torch.linalg.inv(r).mT, s)):
        rows = slice(part * width + head * dims, part * width + (head + 1) * dims)
        for kind in ("weight", "bias"):
            values = made[f"{stem}qkv.{kind}"]
            values[rows] = matrix @ values[rows]
    columns = slice(head * dims, (head + 1) * dims)
    output = made[f"{stem}proj.weight"]
    output[:, columns] = output[:, columns] @ torch.linalg.inv(s)


def _invertible(size: int, generator: torch.Generator) -> Tensor:
    """Return a random matrix whose singular values go from 1 / 3 to 3."""
    noise = torch.randn(2, size, size, generator=generator, dtype=torch.float64)
    (u, v), _ = torch.linalg.qr(noise)
    spread = torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1
    found: Tensor = (u * 3.0**spread) @ v
    return found


def scaled_gates(state: State) -> dict[str, Tensor]:
    """Return a llama with up_proj times s, and down_proj divided by it."""
    made = {name: value.clone() for name, value in state.items()}
    for k, name in enumerate(n for n in state if n.endswith("up_proj.weight")):
        scale = _scales(len(made[name]), k)
        made[name] *= scale[:, None]
        made[name.replace("up_proj", "down_proj")] /= scale
    return made


def _scales(size: int, seed: int) -> Tensor:
    noise = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return SMALLEST * (LARGEST / SMALLEST) ** noise


def quantised(state: State, *, levels: int = LEVELS, group: int | None = None) -> dict[str, Tensor]:
    """Return matrices as integers times a scale, for each row or each group in it, and back."""

    def rounded(values: Tensor) -> Tensor:
        rows = values.reshape(len(values), -1)
        whole = group is not None and rows.shape[1] % group == 0
        blocks = rows.reshape(-1, group) if whole and group else rows
        step = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12) / levels
        return ((blocks / step).round() * step).reshape(values.shape)

    return {n: rounded(v) if _is_matrix(v) else v for n, v in state.items()}


def pruned(state: State, share: float) -> dict[str, Tensor]:
    """Return matrices whose smallest weights are zero, a share of each."""

    def cut(values: Tensor) -> Tensor:
        size = values.abs().flatten()
        edge = size.kthvalue(max(1, int(share * len(size)))).values
        return torch.where(values.abs() > edge, values, 0.0)

    return {n: cut(v) if _is_matrix(v) else v for n, v in state.items()}


def low_rank(base: State, tuned: State) -> dict[str, Tensor]:
    """Return a base with what tuning changed in its matrices, of rank 4: a LoRA, merged."""
    made = dict(base)
    for name, value in base.items():
        if value.dim() == 2:
            u, s, vt = torch.linalg.svd(tuned[name] - value, full_matrices=False)
            made[name] = value + (u[:, :RANK] * s[:RANK]) @ vt[:RANK]
    return made


def half_new(state: State, fresh: State) -> dict[str, Tensor]:
    """Return a state in which every second matrix, and the vectors behind it, are fresh."""
    made: dict[str, Tensor] = {}
    new = False
    for name, value in state.items():
        if _is_matrix(value):
            new = not new
        made[name] = fresh[name] if new else value
    return made


def mean(*states: State) -> dict[str, Tensor]:
    """Return the mean of some states; integers are those of the first."""
    return {
        name: sum((s[name] for s in states[1:]), value.clone()) / len(states)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def _is_matrix(values: Tensor) -> bool:
    return values.is_floating_point() and values.dim() > 1
