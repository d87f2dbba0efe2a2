"""Architectures of three libraries, traced and proved; the benchmark tries hundreds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from rebasin_cli.models.subject import Subject
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.transformers.transformers_models import transformers_subject
from rebasin_cli.tracer.proof.random_numbers import randomise
from rebasin_cli.tracer.trace import trace
from tests.proof import draw, permuted, stored

ENOUGH = 0.99  # of the elements
PIXELS = 1e-6  # rounding; boxes whose layers did not follow were 4.6 pixels off

# Name -> groups that move, and those of them with a parent, counted by hand.
TORCHVISION = {
    # the first convolution; a squeeze and two halves of an expansion in each of 8 modules
    "squeezenet1_1": (1 + 8 * 3, 0),
    # the first convolution; streams of 16, 24, 40, 48, 96 units; the expansions of 10 blocks, the
    # squeezes of 9; the last convolution and the hidden layer of the classifier
    "mobilenet_v3_small": (1 + 5 + 10 + 9 + 2, 0),
}
TIMM = {
    # one stream; 6 blocks of heads, two kinds of dims, hidden units
    "test_vit": (1 + 6 * 4, 6 * 2),
    # 3 convolutions of the stem, of which the last is the stream of stage 1; 3 more streams; one
    # hidden layer in each of 4 blocks, and a second in the one with a bottleneck
    "test_resnet": (3 + 3 + 4 + 1, 0),
    # a stream in each of 4 stages; the hidden units of 1 + 2 + 4 + 2 blocks
    "test_convnext": (4 + 9, 0),
    # the stem; 5 streams; the expansions of 4 blocks, the squeezes of 2; the last convolution
    "test_efficientnet": (1 + 5 + 4 + 2 + 1, 0),
    # as test_vit; biases of heads come from hidden units of their own
    "test_vit_relpos": (1 + 9 * 5, 9 * 2),
}
LAYERS = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64}
SEQUENCES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 64} | {
    f"{side}_{count}": size
    for side in ("encoder", "decoder")
    for count, size in (("attention_heads", 4), ("ffn_dim", 48))
}
TOWER = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4} | {
    "intermediate_size": 48
}
TRANSFORMERS: Mapping[str, tuple[Mapping[str, object], int, int]] = {
    # the stream; in each layer heads, the dims that are not rotated, those of values, hidden units
    "GPTNeoXForCausalLM": (LAYERS | {"intermediate_size": 48}, 1 + 2 * 4, 2 * 2),
    # slopes tell the heads apart: only what is inside them moves
    "BloomForCausalLM": (LAYERS | {"n_layer": 2, "n_head": 4}, 1 + 2 * 3, 2 * 2),
    # all heads share one key and one value; all dims are rotated
    "FalconForCausalLM": (LAYERS, 1 + 2 * 3, 0),
    # kv heads, queries of each, dims of values, hidden units
    "Gemma2ForCausalLM": (
        LAYERS | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},
        1 + 2 * 4,
        2 * 2,
    ),
    # windows by strides; the first token sees all by queries, keys and values of its own: heads,
    # dims of queries near and far, dims of values, hidden units
    "LongformerForMaskedLM": (
        LAYERS | {"intermediate_size": 48, "attention_window": 4},
        1 + 2 * 5,
        2 * 3,
    ),
    "ViTForImageClassification": (
        TOWER | {"image_size": 32, "patch_size": 8, "num_labels": 5},
        1 + 2 * 4,
        2 * 2,
    ),
    # two towers, and the space that both project to
    "CLIPModel": (
        {
            "text_config": TOWER
            | {"vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 63},
            "vision_config": TOWER | {"image_size": 32, "patch_size": 8},
            "projection_dim": 24,
        },
        2 * (1 + 2 * 4) + 1,
        2 * 2 * 2,
    ),
    # one stream, since both sides share the embedding; cross-attention has heads of its own
    "BartForConditionalGeneration": (SEQUENCES, 1 + 2 * 4 + 2 * 7, 2 * 2 + 2 * 4),
    # two streams; the first of two convolutions is not part of one
    "WhisperForConditionalGeneration": (
        SEQUENCES
        | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
        | {"pad_token_id": 0, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 1},
        2 + 1 + 2 * 4 + 2 * 7,
        2 * 2 + 2 * 4,
    ),
}
KINDS = {"GPTNeoXForCausalLM": "gpt_neox"}

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def check(given: Subject, groups: int, children: int) -> None:
    """Trace an architecture, and compare with what was counted."""
    found = trace(given)
    assert found.proof is not None
    assert (found.proof.holds, found.proof.refuted, found.unknown) == (True, {}, ())
    assert found.share >= ENOUGH
    moving = [group for group in found.bound.groups.values() if not group.fixed]
    assert (len(moving), sum(bool(group.parents) for group in moving)) == (groups, children)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    pytest.importorskip("torchvision")
    check(subject_of_target(f"torchvision:{name}"), *TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    pytest.importorskip("timm", minversion="1.0.30" if name == "test_vit_relpos" else None)
    check(subject_of_target(f"timm:{name}"), *TIMM[name])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    config, groups, children = TRANSFORMERS[name]
    kind = KINDS.get(name) or name.partition("For")[0].removesuffix("Model").lower()
    given = transformers_subject(name, {"model_type": kind, "architectures": [name], **config})
    check(given, groups, children)


@pytest.mark.slow
def test_a_detector_finds_the_same_boxes_with_its_units_in_another_order() -> None:
    models = pytest.importorskip("torchvision.models")
    name = "ssdlite320_mobilenet_v3_large"
    found = trace(subject_of_target(f"torchvision:{name}"))
    assert (found.share >= ENOUGH, found.unused) == (True, ())
    model = models.get_model(name, weights=None, weights_backbone=None).double().eval()
    picture = torch.rand(3, 200, 240, dtype=torch.float64)
    with torch.no_grad():
        randomise(model, torch.Generator().manual_seed(1))
        state = stored(model)
        before = model([picture])[0]
        moved = permuted(state, found.bound.tensors, draw(found.bound, seed=3))
        model.load_state_dict({**state, **moved})
        after = model([picture])[0]
    assert len(before["boxes"]) > 0
    assert torch.equal(before["labels"], after["labels"])
    assert float((before["boxes"] - after["boxes"]).abs().max()) < PIXELS
