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
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class Llama:
    """A llama with random weights; hidden units are 2.75 times the width, as in TinyLlama."""

    width: int
    layers: int
    vocabulary: int
    kv_heads: int = 4
    dtype: torch.dtype = torch.bfloat16

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by name."""
        width, hidden, keys = self.width, self.width * 11 // 4, self.kv_heads * HEAD
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
        ends = {"model.embed_tokens.weight": (self.vocabulary, width)}
        blocks = {
            f"model.layers.{k}.{name}.weight": shape
            for k in range(self.layers)
            for name, shape in block.items()
        }
        ends_with = {"model.norm.weight": (width,), "lm_head.weight": (self.vocabulary, width)}
        return {**ends, **blocks, **ends_with}

    def noise(self, name: str, model: int) -> Tensor:
        """Return Gaussian noise of a tensor's shape, other noise for each model."""
        generator = torch.Generator().manual_seed(2 * list(self.shapes).index(name) + model)
        return torch.randn(self.shapes[name], generator=generator)

    def first(self, name: str) -> Tensor:
        """Return a tensor of the first model."""
        gain = len(self.shapes[name]) == 1
        return 1 + 0.1 * self.noise(name, 0) if gain else SPREAD * self.noise(name, 0)

    def write(self, folder: Path, produce: Callable[[str], Tensor]) -> None:
        """Write a folder of transformers."""
        folder.mkdir()
        infos = [TensorInfo(name, shape, self.dtype) for name, shape in self.shapes.items()]
        write_checkpoint(
            folder / "model.safetensors",
            infos,
            lambda name: produce(name).to(self.dtype),
            Layout("safetensors"),
            overwrite=True,
        )
        (folder / "config.json").write_text(json.dumps(self._config()), "utf-8")

    def _config(self) -> dict[str, object]:
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.width,
            "intermediate_size": self.width * 11 // 4,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // HEAD,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": str(self.dtype).removeprefix("torch."),
        }


def main(folder: Path, llama: Llama) -> None:
    llama.write(folder / "a", llama.first)
    models = open_models([folder / "a"], Selection())
    folding = plan_folding(choose_spec(models, Selection()), models)
    groups, generator = folding.moving.groups.values(), torch.Generator().manual_seed(0)
    maps = draw_maps(groups, folding.classes, generator)
    moved = Carried(FoldedNorms(models[0], folding), folding.moving.tensors, maps)

    def second(name: str) -> Tensor:
        values = moved.load(name)
        if len(llama.shapes[name]) > 1:
            values = values + NOISE * values.std(correction=0) * llama.noise(name, 1)
        return values

    llama.write(folder / "b", second)


if __name__ == "__main__":
    width, layers, vocabulary = map(int, sys.argv[2:])
    main(Path(sys.argv[1]), Llama(width, layers, vocabulary))
