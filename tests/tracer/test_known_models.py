"""Published architectures, with numbers of groups counted by hand from their papers and code."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from torch import nn

from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.trace import trace

EXACT = 1e-9
FLOAT32 = 1e-4  # where the model itself computes in float32

# name -> groups, of them with a parent, share of elements that move (to 3 places)
TORCHVISION = {
    # 4 streams; the hidden units of 8 blocks
    "resnet18": (4 + 8, 0, 0.999),
    # the stem, which 3 blocks widen; 4 streams; two hidden layers in each of 16 blocks
    "resnet50": (5 + 32, 0, 0.999),
    # every convolution, and two linear layers before the last one
    "vgg16_bn": (13 + 2, 0, 0.999),
    "vgg11_bn": (8 + 2, 0, 0.999),
    # the stem; a bottleneck and a growth in each of 58 layers; 3 transitions
    "densenet121": (1 + 2 * 58 + 3, 0, 0.999),
    # streams of 16, 24, 40, 80, 112, 160 units; 14 expansions; 8 squeezes; the last 2 layers
    "mobilenet_v3_large": (6 + 14 + 8 + 2, 0, 0.999),
    # 4 streams; the hidden units of 3 + 3 + 9 + 3 blocks
    "convnext_tiny": (4 + 18, 0, 0.999),
    # 4 streams; in each of 12 blocks heads, two kinds of dims, hidden units
    "swin_t": (4 + 12 * 4, 24, 0.999),
}
VIT = {"vit_b_16": (1 + 12 * 4, 24, 0.999)}  # one stream; 12 blocks as in swin
TIMM = {
    # one stream; the hidden units of 12 blocks; tokens are places
    "resmlp_12_224": (12 + 1, 0, 0.969),
    # one stream; in each of 8 blocks hidden units for tokens and for channels
    "mixer_s32_224": (8 * 2 + 1, 0, 0.999),
}


def tiny(architecture: str, **more: object) -> dict[str, object]:
    """Return the configuration of a model with 2 layers of 32 units and 4 heads."""
    common = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    return {"architectures": [architecture], "vocab_size": 99, "intermediate_size": 48} | (
        common | more
    )


# model type -> configuration, groups, of them with a parent
HF = {
    # the stream; in 2 layers heads, two kinds of dims, hidden units; the head's transform writes
    # what the tied embedding reads, so its units are those of the stream
    "bert": (tiny("BertForMaskedLM"), 1 + 2 * 4, 4),
    "gpt2": (
        tiny("GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64),
        1 + 2 * 4,
        4,
    ),
    # in each layer kv heads, queries in each, values, hidden units; rotary dims stay
    "llama": (tiny("LlamaForCausalLM", num_key_value_heads=2), 1 + 2 * 4, 4),
    # one stream, for the embedding is shared. The position bias of the first layer serves all
    # layers of its side and ties their heads; a layer has two kinds of dims and hidden units, in
    # the decoder heads and two kinds of dims of the cross-attention besides
    "t5": (
        tiny("T5ForConditionalGeneration", d_model=32, d_kv=8, d_ff=48, num_layers=2)
        | {"num_heads": 4, "decoder_start_token_id": 0},
        1 + (1 + 2 * 3) + (1 + 2 * 6),
        12,
    ),
    # in each layer kv heads, queries in each, values, experts, hidden units in each
    "mixtral": (
        tiny("MixtralForCausalLM", num_key_value_heads=2, num_local_experts=4),
        1 + 2 * 5,
        6,
    ),
    # The count of tracing.md, not made by hand.
    "qwen3_next": (
        tiny("Qwen3NextForCausalLM", num_key_value_heads=2, head_dim=8, num_experts=4)
        | {"num_hidden_layers": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        | {"shared_expert_intermediate_size": 24, "linear_num_value_heads": 4}
        | {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
        | {"layer_types": ["linear_attention", "full_attention"] * 2, "decoder_sparse_step": 1},
        29,
        # 2 for each full attention, the value heads of a key head in each linear one, experts.
        2 * 2 + 2 + 4,
    ),
}


def traced(target: str, limit: float = EXACT) -> Trace:
    """Trace a model and check that its proof holds and nothing was refuted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages
        found = trace(subject_of_target(target))
    assert found.proof is not None
    assert found.proof.refuted == {}
    assert set(found.unknown) <= {"linalg_solve_triangular"}  # which is probed
    assert found.proof.difference <= limit
    return found


def counted(found: Trace) -> tuple[int, int]:
    """Return the number of groups that move, and of those that have a parent."""
    moving = [group for group in found.bound.groups.values() if not group.fixed]
    return len(moving), sum(bool(group.parents) for group in moving)


def test_an_mlp_has_a_group_for_each_hidden_layer() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    found = trace(subject_of(net))
    assert [group.size for group in found.bound.groups.values()] == [8, 6]
    # All but the bias of the last layer.
    assert found.share == (48 + 54 + 18) / (48 + 54 + 21)


# Before, their experts are looked up in a way that has fewer groups.
COUNTED_WITH = {"mixtral": "5.24", "qwen3_next": "5.24"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION | VIT)
def test_torchvision(name) -> None:
    pytest.importorskip("torchvision")
    groups, children, share = (TORCHVISION | VIT)[name]
    found = traced(f"torchvision:{name}")
    assert counted(found) == (groups, children)
    assert found.share >= share


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm(name) -> None:
    pytest.importorskip("timm")
    groups, children, share = TIMM[name]
    found = traced(f"timm:{name}")
    assert counted(found) == (groups, children)
    assert found.share >= share


@pytest.mark.parametrize("name", HF)
def test_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion=COUNTED_WITH.get(name))
    config, groups, children = HF[name]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name} | config), "utf-8")
    found = traced(f"hf:{tmp_path}", FLOAT32)
    assert counted(found) == (groups, children)


# Beside what a plain call reads: patches and frames that are hidden, answers to choose from, texts
# of a batch without a padding token.
BESIDE: dict[str, tuple[str, dict[str, object]]] = {
    "ViTForMaskedImageModeling": ("vit", {"image_size": 32, "patch_size": 8, "encoder_stride": 8}),
    "HubertForCTC": (
        "hubert",
        {"conv_dim": [32], "conv_kernel": [10], "conv_stride": [40], "num_feat_extract_layers": 1}
        | {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    ),
    "BertForMultipleChoice": ("bert", {}),
    "Qwen2ForSequenceClassification": ("qwen2", {"num_key_value_heads": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_all_of_what_the_task_of_a_model_reads_is_exercised(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion="5.24")
    kind, fields = BESIDE[name]
    config = {"model_type": kind} | tiny(name) | fields
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert traced(f"hf:{tmp_path}", FLOAT32).unused == ()
