"""Write what belongs to a model: belongings.py adapter|state MODEL OUT.

adapter: the folder OUT with a LoRA of rank 16, as PEFT stores it, of all matrices in the blocks of
a folder of transformers. state: the file OUT with the state of Adam, as torch saves it, of a chain
of linear layers, their weight before their bias. Values are random. A program, because the one that
measures memory has to stay small.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.tensors import TensorInfo, infos

RANK = 16
Shapes = Mapping[str, TensorInfo]


def write_adapter(model: Shapes, out: Path) -> None:
    factors: dict[str, Tensor] = {}
    for name, info in model.items():
        if ".layers." in name and len(info.shape) == 2:
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, info.shape[1])
            factors[f"{prefix}.lora_B.weight"] = torch.randn(info.shape[0], RANK)
    out.mkdir()
    save_file(factors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
    (out / "adapter_config.json").write_text(json.dumps(config), "utf-8")


def write_state(model: Shapes, out: Path) -> None:
    ordered = sorted(model, key=lambda name: (name.rpartition(".")[0], name.endswith("bias")))
    state = {
        number: {
            "step": torch.tensor(1.0),
            "exp_avg": torch.randn(model[name].shape),
            "exp_avg_sq": torch.rand(model[name].shape),
        }
        for number, name in enumerate(ordered)
    }
    group = {"lr": 0.001, "params": list(state)}
    torch.save({"state": state, "param_groups": [group]}, out)


WRITERS: Mapping[str, Callable[[Shapes, Path], None]] = {
    "adapter": write_adapter,
    "state": write_state,
}

if __name__ == "__main__":
    _, kind, model, out = sys.argv
    with open_checkpoint(Path(model)) as opened:
        WRITERS[kind](infos(opened), Path(out))
