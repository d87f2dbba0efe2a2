"""Convolutional networks, under the names of torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rebasin_cli.models.libraries.optional_packages import optional
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.user.given_inputs import examples_of_shape
from rebasin_cli.models.user.user_model import subject_of
from tests.library.entry import Entry, Fields, Model, called, listed

PICTURE = (2, 3, 64, 64)
DENSE: Fields = {"growth_rate": 4, "num_init_features": 8, "bn_size": 2, "num_classes": 10}
EFFICIENT_GROUPS = {
    r"features\.(?:stream|0\.0)": "stem",
    r"features\.(\d+)\.(\d+)\.block\.(?:stream|0\.0)": r"inner.\1.\2",
    r"features\.(\d+)\.(\d+)\.block\.\d\.fc1": r"squeeze.\1.\2",
    r"features\.(\d+)\.(?:stream|0\.block\.[123]\.0)": r"stage.\1",
    r"features\.\d\.0": "features",
}
# Rows of (fused, expansion, stride, channels), narrow multiples of 8; neighbours differ in width
# where the stages of the real networks do.
V1 = (
    (0, 1, 1, 16),
    (0, 6, 2, 24),
    (0, 6, 2, 32),
    (0, 6, 2, 40),
    (0, 6, 1, 48),
    (0, 6, 2, 56),
    (0, 6, 1, 64),
)
V2S = ((1, 1, 1, 8), (1, 4, 2, 16), (1, 4, 2, 24), (0, 4, 2, 32), (0, 6, 1, 40), (0, 6, 2, 48))
V2M = (*V2S, (0, 6, 1, 56))


def efficient(rows: Sequence[tuple[int, int, int, int]], blocks: Sequence[int]) -> Model:
    """Return an EfficientNet with as many blocks in each stage."""

    def found() -> Subject:
        module = optional("torchvision", "torchvision.models.efficientnet")
        width, settings = 8, []
        for (fused, expand, stride, out), count in zip(rows, blocks, strict=True):
            kind = module.FusedMBConvConfig if fused else module.MBConvConfig
            settings.append(kind(expand, 3, stride, width, out, count))
            width = out
        arguments = {"inverted_residual_setting": settings, "dropout": 0.1, "num_classes": 10}
        examples = examples_of_shape(PICTURE)
        return subject_of(module.EfficientNet, model_args=arguments, examples=examples)

    return Model(found)


def convnext(widths: Sequence[int], blocks: Sequence[int]) -> Model:
    """Return a ConvNeXt of torchvision."""

    def found() -> Subject:
        module = optional("torchvision", "torchvision.models.convnext")
        following = (*widths[1:], None)
        rows = zip(widths, following, blocks, strict=True)
        arguments: Mapping[str, Any] = {
            "block_setting": [module.CNBlockConfig(*row) for row in rows],
            "num_classes": 10,
        }
        examples = examples_of_shape(PICTURE)
        return subject_of(module.ConvNeXt, model_args=arguments, examples=examples)

    return Model(found)


def timm_convnext(name: str, blocks: Sequence[int]) -> Model:
    """Return a narrow ConvNeXt of timm."""
    widths = [8, 12, 16, 20]
    return listed(f"timm:{name}", shape=PICTURE, dims=widths, depths=blocks, num_classes=10)


ENTRIES = (
    Entry(
        name="densenet121",
        about="""DenseNet 121 as torchvision and old versions of timm name it. Each layer reads all
            that the layers of its block have written, side by side: the new channels of layer l of
            block b are new.b.l, the bottleneck inside the layer is mid.b.l. A layer's inputs have
            to be listed, so that each depth is a text of its own; --model traces the others.""",
        description="torchvision densenet121",
        needs="torchvision",
        variants=(
            called(
                "torchvision.models:DenseNet",
                shape=PICTURE,
                block_config=(6, 12, 24, 16),
                **DENSE,
            ),
        ),
        groups={
            r"features\.conv0": "stem",
            r"features\.transition(\d)\.conv": r"transition.\1",
            r"features\.denseblock(\d)\.denselayer(\d+)\.conv1": r"mid.\1.\2",
            r"features\.denseblock(\d)\.denselayer(\d+)\.conv2": r"new.\1.\2",
        },
    ),
    Entry(
        name="mobilenet_v3_large",
        about="""MobileNet V3 large as torchvision names it. A block widens its input (inner),
            filters each channel by itself, weighs the channels (squeeze) and narrows them again.
            Blocks that add to their input share its channels (stage, after the first block).""",
        description="torchvision mobilenet_v3_large",
        needs="torchvision",
        variants=(listed("torchvision:mobilenet_v3_large", shape=PICTURE, width_mult=0.3),),
        larger=(listed("torchvision:mobilenet_v3_large", shape=PICTURE, width_mult=0.5),),
        groups={
            r"features\.stream": "stem",
            r"features\.2\.block\.2\.0": "stage.2",
            r"features\.stream\.part2": "stage.4",
            r"features\.stream\.part3": "stage.7",
            r"features\.11\.block\.3\.0": "stage.11",
            r"features\.stream\.part4": "stage.13",
            r"features\.(\d+)\.block\.(?:stream|0\.0)": r"inner.\1",
            r"features\.(\d+)\.block\.\d\.fc1": r"squeeze.\1",
            r"features\.16\.0": "features",
            r"classifier\.0": "classifier",
        },
    ),
    Entry(
        name="mobilenet_v3_small",
        about="""MobileNet V3 small as torchvision names it. A block widens its input (inner),
            filters each channel by itself, weighs the channels (squeeze) and narrows them again.
            Blocks that add to their input share its channels (stage, after the first block).""",
        description="torchvision mobilenet_v3_small",
        needs="torchvision",
        variants=(listed("torchvision:mobilenet_v3_small", shape=PICTURE, width_mult=0.3),),
        larger=(listed("torchvision:mobilenet_v3_small", shape=PICTURE, width_mult=0.5),),
        groups={
            r"features\.stream": "stem",
            r"features\.([12])\.block\.2\.0": r"stage.\1",
            r"features\.stream\.part2": "stage.4",
            r"features\.stream\.part3": "stage.9",
            r"features\.(\d+)\.block\.(?:stream|0\.0)": r"inner.\1",
            r"features\.(\d+)\.block\.\d\.fc1": r"squeeze.\1",
            r"features\.12\.0": "features",
            r"classifier\.0": "classifier",
        },
    ),
    Entry(
        name="efficientnet",
        about="""EfficientNet b0 to b7 as torchvision names them. The blocks of a stage add to the
            same channels (stage); each widens them (inner), filters each channel by itself, weighs
            the channels (squeeze) and narrows them again. The first stage does not widen.""",
        description="torchvision efficientnet_b0 to efficientnet_b7",
        needs="torchvision",
        variants=(efficient(V1, [5, 3, 3, 3, 3, 3, 3]), efficient(V1, [1, 2, 2, 3, 3, 4, 1])),
        larger=(efficient(V1, [2, 4, 4, 5, 5, 6, 2]),),
        groups=EFFICIENT_GROUPS,
    ),
    Entry(
        name="efficientnet_v2_s",
        about="""EfficientNet V2 S as torchvision names it. The blocks of a stage add to the same
            channels (stage); each widens them (inner) and narrows them again; late blocks filter
            each channel by itself and weigh the channels (squeeze). The first stage does not widen
            and adds to what the stem wrote.""",
        description="torchvision efficientnet_v2_s",
        needs="torchvision",
        variants=(efficient(V2S, [4, 4, 4, 4, 4, 4]),),
        larger=(efficient(V2S, [2, 4, 4, 6, 9, 15]),),
        groups=EFFICIENT_GROUPS,
    ),
    Entry(
        name="efficientnet_v2_m",
        about="""EfficientNet V2 M and L as torchvision names them. The blocks of a stage add to
            the same channels (stage); each widens them (inner) and narrows them again; late blocks
            filter each channel by itself and weigh the channels (squeeze). The first stage does
            not widen and adds to what the stem wrote.""",
        description="torchvision efficientnet_v2_m, efficientnet_v2_l",
        needs="torchvision",
        variants=(efficient(V2M, [4, 4, 4, 4, 4, 4, 4]),),
        larger=(efficient(V2M, [3, 5, 5, 7, 8, 9, 5]),),
        groups=EFFICIENT_GROUPS,
    ),
    Entry(
        name="convnext",
        about="""ConvNeXt as torchvision names it. The blocks of a stage add to the same channels;
            each has hidden units of its own.""",
        description="torchvision convnext_tiny, convnext_small, convnext_base, convnext_large",
        needs="torchvision",
        variants=(convnext([8, 12, 16, 20], [3, 3, 3, 3]),),
        larger=(convnext([12, 16, 24, 20], [3, 3, 9, 3]), convnext([8, 12, 16, 20], [3, 3, 27, 3])),
        groups={
            r"features\.(\d+)\.stream": r"stage.\1",
            r"features\.(\d+)\.(\d+)\.block\.3": r"hidden.\1.\2",
        },
    ),
    Entry(
        name="timm_convnext",
        about="""ConvNeXt and ConvNeXt V2 as timm names them. The blocks of a stage add to the same
            channels; each has hidden units of its own.""",
        description="timm convnext_*, convnextv2_*",
        needs="timm",
        variants=(
            timm_convnext("convnext_tiny", [3, 3, 3, 3]),
            timm_convnext("convnextv2_tiny", [3, 3, 3, 3]),
        ),
        larger=(
            timm_convnext("convnext_tiny", [3, 3, 27, 3]),
            timm_convnext("convnext_atto", [2, 2, 6, 2]),
            timm_convnext("convnextv2_atto", [2, 2, 6, 2]),
        ),
        groups={
            r"stream": "stage.0",
            r"stages\.(\d+)\.stream": r"stage.\1",
            r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc1": r"hidden.\1.\2",
        },
    ),
)
