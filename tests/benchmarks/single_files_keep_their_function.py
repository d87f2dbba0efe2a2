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
from collections.abc import Iterator, Mapping
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
from tests.library.single_files.entries import PUBLISHED, SMALL_TEXT, sdxl
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


def windows(shapes: Mapping[str, tuple[int, ...]], heads: Mapping[str, int]) -> Iterator[Windows]:
    """Yield what sd-mecha permutes of a file. heads: of the text encoders, by prefix."""
    for name, shape in shapes.items():
        count = next((n for start, n in heads.items() if name.startswith(start)), HEADS)
        rows = shape[0]
        if found := re.fullmatch(r"(.*)\.(to_q|self_attn\.q_proj)\.weight", name):
            key = found[2].replace("q", "k", 1) if found[2] == "to_q" else "self_attn.k_proj"
            both = (f"{found[1]}.{found[2]}", f"{found[1]}.{key}")
            yield _alike(shapes, rows, rows // count, both, None)
        elif found := re.fullmatch(r"(.*)\.(to_v|self_attn\.v_proj)\.weight", name):
            out = "to_out.0" if found[2] == "to_v" else "self_attn.out_proj"
            last = f"{found[1]}.{out}.weight"
            yield _alike(shapes, rows, rows // count, (f"{found[1]}.{found[2]}",), last)
        elif found := re.fullmatch(r"(.*)\.in_proj_weight", name):
            size = rows // 3
            both = dict.fromkeys((name, f"{found[1]}.in_proj_bias"), (0, (0, size)))
            yield Windows(size, size // count, both)
            value = dict.fromkeys(both, (0, (2 * size,)))
            yield Windows(size, size // count, {**value, f"{found[1]}.out_proj.weight": (1, (0,))})
        elif found := re.fullmatch(r"(.*\.mlp\.)(fc1|c_fc)\.weight", name):
            last = f"{found[1]}{'fc2' if found[2] == 'fc1' else 'c_proj'}.weight"
            yield _alike(shapes, rows, rows, (f"{found[1]}{found[2]}",), last)
        elif found := re.fullmatch(r"(.*\.)(time_embed|label_emb\.0)\.0\.weight", name):
            last = f"{found[1]}{found[2]}.2.weight"
            yield _alike(shapes, rows, rows, (f"{found[1]}{found[2]}.0",), last)
        elif found := re.fullmatch(r"(.*\.ff\.net\.)2\.weight", name):
            halves = {f"{found[1]}0.proj.{end}": (0, (0, shape[1])) for end in ("weight", "bias")}
            yield Windows(shape[1], shape[1], {**halves, name: (1, (0,))})


def _alike(
    shapes: Mapping[str, tuple[int, ...]],
    length: int,
    width: int,
    written: tuple[str, ...],
    read: str | None,
) -> Windows:
    """Return windows on the rows of some layers and the columns of the one that reads them."""
    names = [f"{layer}.{end}" for layer in written for end in ("weight", "bias")]
    axes: dict[str, tuple[int, tuple[int, ...]]] = {n: (0, (0,)) for n in names if n in shapes}
    return Windows(length, width, {**axes, read: (1, (0,))} if read else axes)


def by_windows(file: State, heads: Mapping[str, int]) -> State:
    """Return a file with every window in a random order."""
    found, generator = dict(file), torch.Generator().manual_seed(3)
    for window in windows({n: tuple(t.shape) for n, t in file.items()}, heads):
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
    moved = {"rebasin": by_spec(file, bound), "sd-mecha": by_windows(file, SMALL_HEADS)}
    rows = {name: len(tensor) for name, tensor in model.state_dict().items()}
    for title, other in moved.items():
        model.load_state_dict(layout.restored(other, rows), strict=False)
        change = largest_change(before, answers(components, model))
        print(f"{title}: all units in random order move the outputs by {change:.1e} of their size")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
