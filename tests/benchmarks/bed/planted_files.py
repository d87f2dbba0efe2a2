"""Write a random single file of Stable Diffusion of the published size, and a permuted copy of it.

planted_files.py FOLDER KIND. FOLDER/a.safetensors and b.safetensors in float16. b is a with every
group permuted at random, and noise of half its standard deviation on each tensor: with the true
orders undone the cosine of the two is .894. A program, because the one that measures memory has to
stay small.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, infos
from tests.benchmarks.bed.rotated_llamas import NOISE
from tests.library.single_files.composed import composed, layout_of
from tests.library.single_files.file_models import PUBLISHED


def main(folder: Path, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        state = composed(kind, PUBLISHED[kind]).build().state_dict()
    shapes = {n: tuple(t.shape) for n, t in layout_of(PUBLISHED[kind]).stored(state).items()}
    first = InMemory({n: drawn(n, shape, generator) for n, shape in shapes.items()})
    bound = bind(load_spec(kind), infos(first))
    orders = draw_permutations(bound.groups.values(), generator)
    moved = Permuted(first, bound.tensors, orders)
    save_file({n: first.load(n) for n in shapes}, folder / "a.safetensors")
    save_file({n: noisy(moved.load(n), generator) for n in shapes}, folder / "b.safetensors")


def drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return values as networks have them: gains near 1, small biases, weights by their inputs."""
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return (values / values[0].numel() ** 0.5).half()
    return (0.1 * values + float(name.endswith("weight"))).half()


def noisy(values: Tensor, generator: torch.Generator) -> Tensor:
    wide = values.float()
    spread = wide.std(correction=0)
    return (wide + NOISE * spread * torch.randn(wide.shape, generator=generator)).half()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
