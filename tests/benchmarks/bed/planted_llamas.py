"""Write a random llama and a permuted copy of it, to be aligned.

planted_llamas.py FOLDER WIDTH LAYERS VOCABULARY KV_HEADS DTYPE. FOLDER/a and b are folders of
transformers, as of `rotated_llamas`. b is a with every group permuted at random, and noise of half
its standard deviation on each tensor: with the true orders undone the cosine of the matrices is
.894. A program, because the one that measures memory has to stay small.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.files.inputs import open_models
from rebasin_cli.options.selection import Selection
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec_choice.choice import choose_spec
from tests.benchmarks.bed.rotated_llamas import NOISE, Llama


def main(folder: Path, llama: Llama) -> None:
    llama.write(folder / "a", llama.first)
    models = open_models([folder / "a"], Selection())
    bound = choose_spec(models, Selection()).bound
    drawn = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(0))
    moved = Permuted(models[0], bound.tensors, drawn)

    def second(name: str) -> Tensor:
        values = moved.load(name).float()
        return values + NOISE * values.std(correction=0) * llama.noise(name, 1)

    llama.write(folder / "b", second)


if __name__ == "__main__":
    _, name, *sizes, dtype = sys.argv
    width, layers, vocabulary, kv_heads = map(int, sizes)
    main(Path(name), Llama(width, layers, vocabulary, kv_heads, getattr(torch, dtype)))
