"""Networks for tests: every one small, and quick to fill with random values.

model = EXAMPLES["llama"].model(seed=1)
before = outputs(model, EXAMPLES["llama"].batch())
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from tests.models.cifar import FORMS, CifarResNet
from tests.models.constructs import Alibi, CrossAttention, Interleaved, MoeMlp, Recurrent
from tests.models.example import (
    Example,
    Inputs,
    features,
    outputs,
    randomise,
    tokens,
    without_biases,
)
from tests.models.llama import VOCABULARY, Extras, Llama
from tests.models.mlp import LayeredMlp, ResidualMlp, sequential_mlp
from tests.models.resnet import BASIC, BOTTLENECK, Names, ResNet
from tests.models.transformer import CharGpt, FlatVit, NanoGpt, TimmVit
from tests.models.vgg import CONVOLUTIONS, Vgg

__all__ = ["EXAMPLES", "Example", "Inputs", "outputs", "randomise", "without_biases"]

PICTURE = features(2, 3, 32, 32)
ROWS = features(5, 6)
CIFAR_NAMES = {
    "resnet20_stages": Names(norm="norm", stages="stages", shortcut="proj"),
    "resnet20_shortcut": Names(shortcut="shortcut", head="linear"),
    "resnet20_downsample": Names(),
}
TORCHVISION_DEPTHS = {
    "resnet18": (BASIC, (2, 2, 2, 2)),
    "resnet34": (BASIC, (3, 4, 6, 3)),
    "resnet50": (BOTTLENECK, (3, 4, 6, 3)),
    "resnet101": (BOTTLENECK, (3, 4, 23, 3)),
    "resnet152": (BOTTLENECK, (3, 8, 36, 3)),
}
LLAMAS = {
    "llama": Extras(),
    "llama_biased": Extras(qkv_bias=True, other_biases=True),
    "qwen2": Extras(qkv_bias=True),
    "qwen3": Extras(norms=True),
}


def _two_streams(generator: torch.Generator) -> Inputs:
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    return draw((2, 3, 5)), draw((2, 4, 6))


def _bias_free(name: str, example: Example) -> dict[str, Example]:
    build = example.build
    return {name: replace(example, build=lambda: without_biases(build()))}


EXAMPLES: dict[str, Example] = {
    "mlp_sequential": Example(sequential_mlp, ROWS),
    "mlp_layers": Example(LayeredMlp, ROWS),
    "mlp_residual": Example(ResidualMlp, ROWS),
    **{
        f"vgg{depth}{'_bn' * norm}": Example(
            partial(Vgg, depth, norm="bn" if norm else None), features(2, 3, 64, 64), gain=2.0
        )
        for depth in CONVOLUTIONS
        for norm in (False, True)
    },
    "vgg11_bn_small": Example(
        partial(Vgg, 11, norm="bn", small=True), features(2, 3, 32, 32), gain=2.0
    ),
    "vgg11_small": Example(partial(Vgg, 11, small=True), features(2, 3, 32, 32), gain=2.0),
    **{
        name: Example(partial(ResNet, kind, depths), PICTURE)
        for name, (kind, depths) in TORCHVISION_DEPTHS.items()
    },
    **{
        name: Example(partial(ResNet, BASIC, (3, 3, 3), stem=3, names=names), PICTURE)
        for name, names in CIFAR_NAMES.items()
    },
    **{
        f"cifar_{form}": Example(partial(CifarResNet, form), features(2, 3, 16, 16), gain=2.0)
        for form in FORMS
    },
    "vit_timm": Example(TimmVit, features(2, 3, 8, 8), {"heads": 4}),
    "vit_flat": Example(FlatVit, features(2, 3, 8, 8), {"heads": 4}),
    "char_gpt": Example(CharGpt, tokens(17, 2, 9), {"heads": 4}),
    "nano_gpt": Example(NanoGpt, tokens(17, 2, 9), {"heads": 4}),
    **{
        name: Example(partial(Llama, extras), tokens(VOCABULARY, 2, 7), {"kv": 4})
        for name, extras in LLAMAS.items()
    },
    "moe": Example(MoeMlp, ROWS),
    "interleaved_heads": Example(partial(Interleaved, groups=4, queries=1), features(2, 5, 6)),
    "interleaved_groups": Example(partial(Interleaved, groups=4, queries=3), features(2, 5, 6)),
    "alibi": Example(Alibi, features(2, 5, 6)),
    "lstm": Example(Recurrent, features(3, 4, 5)),
    "cross_attention": Example(CrossAttention, _two_streams),
}
for _name in ("mlp_layers", "vgg11", "vgg11_bn", "resnet18", "vit_flat"):
    EXAMPLES |= _bias_free(f"{_name}_nobias", EXAMPLES[_name])
