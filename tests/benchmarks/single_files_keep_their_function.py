"""Claim: nearly all of a single file of Stable Diffusion XL moves, and its function stays.

What share of the numbers lies in a unit that may change places, by the bundled spec and by the
windows that sd-mecha 1.1.8 permutes (extensions/builtin/merge_methods/rebasin/sdxl_sgm.py): hidden
units of feed-forward layers, and dims inside heads, of which it counts 64 in every attention of
the U-Net. Then both at random on a small copy in which heads are as wide as in the published model
(64), and what diffusers computes of it, in float64. The short form is the whole.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec, draw_permutations
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory, TensorInfo, infos
from tests.library.diffusion import SMALL_SDXL, SMALL_VAE
from tests.library.entry import Fields
from tests.library.single_files.composed import composed, layout_of
from tests.library.single_files.file_models import PUBLISHED, SMALL_TEXT, sdxl
from tests.library.single_files.run_and_moved import answers, largest_change, randomised

State = dict[str, Tensor]
HEADS = 64  # that sd-mecha takes the heads of the U-Net for
TEXT_HEADS = {"conditioner.embedders.0.": 12, "conditioner.embedders.1.": 20}
UNET: Fields = {
    **SMALL_SDXL,
    "block_out_channels": [96, 192, 384],
    "attention_head_dim": [2, 3, 6],  # their number, of 64 dims
    "transformer_layers_per_block": [1, 1, 2],
}
TEXT: Fields = {**SMALL_TEXT, "hidden_size": 128, "num_attention_heads": 2}
SMALL_HEADS = dict.fromkeys(TEXT_HEADS, 2)
SIZES = {"x1": 3, "x2": 6, "x4": 12, "x8": 24, "context": 24}


@dataclass(frozen=True)
class Windows:
    """Rows or columns that are permuted in windows alike, by tensor. parts: stretches of an axis.

    width: of a window. axes: name -> axis, and where on it the stretches start.
    """

    length: int
    width: int
    axes: Mapping[str, tuple[int, tuple[int, ...]]]


def windows(
    shapes: Mapping[str, tuple[int, ...]], heads: Mapping[str, int], *, dims: int | None = None
) -> Iterator[Windows]:
    """Yield what sd-mecha permutes of a file. heads: of the text encoders, by prefix.

    dims: of a head of the U-Net; None: as many as make 64 heads.
    """
    for name, shape in shapes.items():
        other = shape[0] // dims if dims else HEADS
        count = next((n for start, n in heads.items() if name.startswith(start)), other)
        for expression, (others, read) in PAIRED.items():
            if found := re.fullmatch(expression, name):
                layers = [name.removesuffix(".weight"), *(found.expand(o) for o in others)]
                width = shape[0] // (count if found[2] in ("to_", "self_attn.") else 1)
                yield _alike(shapes, (shape[0], width), layers, read and found.expand(read))
        if name.endswith(".in_proj_weight"):
            yield from _joined(name.removesuffix("in_proj_weight"), shape[0] // 3, count)
        if found := re.fullmatch(r"(.*\.ff\.net\.)2\.weight", name):
            halves = {f"{found[1]}0.proj.{end}": (0, (0, shape[1])) for end in ("weight", "bias")}
            yield Windows(shape[1], shape[1], {**halves, name: (1, (0,))})


# Layers whose rows move: others that move alike, and the weight whose columns read them.
PAIRED: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    r"(.*\.)(to_)q\.weight": ((r"\1to_k",), None),
    r"(.*\.)(to_)v\.weight": ((), r"\1to_out.0.weight"),
    r"(.*\.)(self_attn\.)q_proj\.weight": ((r"\1\2k_proj",), None),
    r"(.*\.)(self_attn\.)v_proj\.weight": ((), r"\1\2out_proj.weight"),
    r"(.*\.mlp\.)(fc)1\.weight": ((), r"\1fc2.weight"),
    r"(.*\.mlp\.)(c)_fc\.weight": ((), r"\1c_proj.weight"),
    r"(.*\.)(time_embed|label_emb\.0)\.0\.weight": ((), r"\1\2.2.weight"),
}


def _joined(layer: str, size: int, heads: int) -> Iterator[Windows]:
    """Yield the windows of a layer that joins q, k and v."""
    rows = (f"{layer}in_proj_weight", f"{layer}in_proj_bias")
    yield Windows(size, size // heads, dict.fromkeys(rows, (0, (0, size))))
    values: dict[str, tuple[int, tuple[int, ...]]] = dict.fromkeys(rows, (0, (2 * size,)))
    yield Windows(size, size // heads, {**values, f"{layer}out_proj.weight": (1, (0,))})


def _alike(
    shapes: Mapping[str, tuple[int, ...]],
    sizes: tuple[int, int],
    written: Sequence[str],
    read: str | None,
) -> Windows:
    """Return windows on the rows of some layers and the columns of the one that reads them.

    sizes: number of rows, and width of a window.
    """
    names = [f"{layer}.{end}" for layer in written for end in ("weight", "bias")]
    axes: dict[str, tuple[int, tuple[int, ...]]] = {n: (0, (0,)) for n in names if n in shapes}
    return Windows(*sizes, {**axes, read: (1, (0,))} if read else axes)


def by_windows(file: State, heads: Mapping[str, int], *, dims: int | None = None) -> State:
    """Return a file with every window in a random order."""
    found, generator = dict(file), torch.Generator().manual_seed(3)
    for window in windows({n: tuple(t.shape) for n, t in file.items()}, heads, dims=dims):
        starts = range(0, window.length, window.width)
        parts = [torch.randperm(window.width, generator=generator) + start for start in starts]
        order = torch.cat(parts)
        for name, (axis, places) in window.axes.items():
            index = torch.arange(found[name].shape[axis])
            for place in places:
                index[place : place + window.length] = order + place
            found[name] = found[name].index_select(axis, index)
    return found


def by_spec(file: State, bound: BoundSpec) -> State:
    """Return a file with every group in a random order."""
    source = InMemory(file)
    orders = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(3))
    moved = Permuted(source, bound.tensors, orders)
    return {name: moved.load(name) for name in file}


def shares(found: Mapping[str, TensorInfo], bound: BoundSpec, heads: Mapping[str, int]) -> str:
    """Return what share of all numbers lies in a unit that may move, by spec and by windows."""
    shapes = {name: info.shape for name, info in found.items()}
    free = {group.name for group in bound.groups.values() if not group.fixed}
    ours = {n for t in bound.tensors if not free.isdisjoint(t.groups) for n in t.members}
    theirs = {name for window in windows(shapes, heads) for name in window.axes}
    total = sum(info.numel for info in found.values())
    share = [sum(found[n].numel for n in names) / total for names in (ours, theirs)]
    return f"rebasin {share[0]:.4%}, sd-mecha {share[1]:.2%} of {total / 1e6:,.0f} M"


def main() -> None:
    """Print both shares, and by how much outputs move."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with torch.device("meta"):
        state = composed("sdxl", PUBLISHED["sdxl"]).build().state_dict()
    large = {
        n: TensorInfo(n, tuple(t.shape), t.dtype)
        for n, t in layout_of(PUBLISHED["sdxl"]).stored(state).items()
    }
    spec = load_spec("sdxl")
    print("published size:", shares(large, bind(spec, large), TEXT_HEADS))
    components = sdxl(UNET, SMALL_VAE, TEXT, TEXT)
    model = randomised(composed("sdxl", components).build())
    before, layout = answers(components, model), layout_of(components)
    file = layout.stored(model.state_dict())
    bound = bind(spec, infos(InMemory(file)), sizes=SIZES)
    print("small copy:", shares(infos(InMemory(file)), bound, SMALL_HEADS))
    moved = {
        "rebasin": by_spec(file, bound),
        "sd-mecha": by_windows(file, SMALL_HEADS),
        "sd-mecha, were its windows heads of 64 dims": by_windows(file, SMALL_HEADS, dims=64),
    }
    rows = {name: len(tensor) for name, tensor in model.state_dict().items()}
    for title, other in moved.items():
        model.load_state_dict(layout.restored(other, rows), strict=False)
        change = largest_change(before, answers(components, model))
        print(f"{title}: all units in random order move the outputs by {change:.1e} of their size")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
