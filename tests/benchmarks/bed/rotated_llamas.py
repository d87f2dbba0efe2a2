"""Write a random llama and a rotated copy of it: rotated_llamas.py FOLDER WIDTH LAYERS VOCABULARY.

FOLDER/a and FOLDER/b are folders of transformers, in bfloat16, heads of 64 dims. b is a, its norms
folded, moved by random maps of every class, and each tensor has noise of half its standard
deviation on top: with the true maps undone the cosine of the two is .894. A program, because the
one that measures memory has to stay small.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.writing.writer import write_checkpoint
from rebasin_cli.files.inputs import open_models
from rebasin_cli.folding.folded_models import plan_folding
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import TensorInfo

NOISE = 0.5  # of a tensor's standard deviation
SPREAD = 0.02  # of weights, as transformers draws them
HEAD = 64
KV_HEADS = 4


def config(width: int, layers: int, vocabulary: int) -> dict[str, object]:
    """Return a config.json; hidden units are 2.75 times the width, as in TinyLlama."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def shapes(width: int, layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by name."""
    hidden, keys = width * 11 // 4, KV_HEADS * HEAD
    block = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for k in range(layers):
        found |= {f"model.layers.{k}.{name}.weight": shape for name, shape in block.items()}
    return found | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def main(folder: Path, width: int, layers: int, vocabulary: int) -> None:
    sizes = shapes(width, layers, vocabulary)
    text = json.dumps(config(width, layers, vocabulary))
    number = {name: k for k, name in enumerate(sizes)}

    def noise(name: str, model: int) -> Tensor:
        generator = torch.Generator().manual_seed(2 * number[name] + model)
        return torch.randn(sizes[name], generator=generator)

    def first(name: str) -> Tensor:
        gain = len(sizes[name]) == 1
        return (1 + 0.1 * noise(name, 0) if gain else SPREAD * noise(name, 0)).bfloat16()

    def second(name: str) -> Tensor:
        values = moved.load(name)
        if len(sizes[name]) > 1:
            values = values + NOISE * values.std(correction=0) * noise(name, 1)
        return values.bfloat16()

    _write(folder / "a", sizes, first, text)
    models = open_models([folder / "a"], Selection())
    folding = plan_folding(choose_spec(models, Selection()), models)
    groups, generator = folding.moving.groups.values(), torch.Generator().manual_seed(0)
    maps = draw_maps(groups, folding.classes, generator)
    moved = Carried(FoldedNorms(models[0], folding), folding.moving.tensors, maps)
    _write(folder / "b", sizes, second, text)


def _write(
    folder: Path, sizes: dict[str, tuple[int, ...]], produce: Callable[[str], Tensor], text: str
) -> None:
    folder.mkdir()
    infos = [TensorInfo(name, shape, torch.bfloat16) for name, shape in sizes.items()]
    write_checkpoint(
        folder / "model.safetensors", infos, produce, Layout("safetensors"), overwrite=True
    )
    (folder / "config.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
