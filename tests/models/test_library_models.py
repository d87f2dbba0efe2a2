"""Models of libraries, by name or by folder; skipped where a library is absent."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.transformers.library_names import ignored_names
from rebasin_cli.models.transformers.transformers_models import finished_subject

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, at import

SD15 = {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768}
SDXL = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}


def on_meta(found: Subject) -> nn.Module:
    with torch.device("meta"):
        return found.build()


def run(found: Subject) -> tuple[Example, ...]:
    """Build for real, run all examples, and return them."""
    model = found.build()
    examples = found.examples(model)
    with torch.no_grad():
        for example in examples:
            model(*example.args, **example.kwargs)
    return examples


def first_shapes(examples: tuple[Example, ...]) -> list[tuple[int, ...]]:
    values = [next(iter([*example.args, *example.kwargs.values()])) for example in examples]
    return [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18", [(2, 3, 96, 96), (3, 3, 64, 64)]),
        ("vit_b_32", [(2, 3, 224, 224), (3, 3, 224, 224)]),
        ("inception_v3", [(2, 3, 96, 96), (3, 3, 128, 128)]),
        ("r3d_18", [(2, 3, 8, 48, 48), (3, 3, 9, 40, 40)]),
        ("raft_small", [(2, 3, 128, 128), (3, 3, 144, 136)]),
        ("lraspp_mobilenet_v3_large", [(2, 3, 96, 96), (3, 3, 64, 64)]),
    ],
)
def test_torchvision_models_get_the_least_that_they_accept(
    name: str, shapes: list[tuple[int, ...]]
) -> None:
    pytest.importorskip("torchvision")
    found = subject_of_target(f"torchvision:{name}")
    assert first_shapes(found.examples(on_meta(found))) == shapes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "keypointrcnn_resnet50_fpn"],
)
def test_detectors_give_raw_outputs_that_every_parameter_can_reach(name: str) -> None:
    pytest.importorskip("torchvision")
    found = subject_of_target(f"torchvision:{name}")
    model = found.build()
    example = found.examples(model)[0]
    for tensor in model.parameters():
        tensor.requires_grad_(True)
    total = sum(tensor.sum() for tensor in flat(model(*example.args)))
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert [key for key, tensor in model.named_parameters() if tensor.grad is None] == []


def flat(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in flat(item)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18.a1_in1k", [(2, 3, 96, 96), (3, 3, 64, 64)]),
        ("vit_tiny_patch16_224", [(2, 3, 224, 224), (3, 3, 224, 224)]),
    ],
)
def test_timm_models_of_a_fixed_size_keep_it(name: str, shapes: list[tuple[int, ...]]) -> None:
    pytest.importorskip("timm")
    found = subject_of_target(f"timm:{name}")
    assert first_shapes(found.examples(on_meta(found))) == shapes


def test_a_timm_model_built_for_another_size_gets_that_size() -> None:
    pytest.importorskip("timm")
    found = subject_of_target("timm:vit_tiny_patch16_224", model_args={"img_size": 64})
    assert first_shapes(found.examples(on_meta(found))) == [(2, 3, 64, 64), (3, 3, 64, 64)]


@pytest.mark.parametrize(
    ("library", "name", "meant"),
    [("torchvision", "resnet5O", "resnet50"), ("timm", "vit_tiny_patch16_223", "vit_tiny_patch16")],
)
def test_an_unknown_name_gets_a_suggestion(library: str, name: str, meant: str) -> None:
    pytest.importorskip(library)
    with pytest.raises(UsageError, match=f"has no model '{name}'\nhint: did you mean '{meant}"):
        subject_of_target(f"{library}:{name}")


def folder(path: Path, config: dict[str, object]) -> str:
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "eos_token_id": 128001,
    "torch_dtype": "bfloat16",
}


def test_a_folder_is_built_on_meta_in_float32_with_plain_attention(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = on_meta(subject_of_target(f"hf:{folder(tmp_path, LLAMA)}"))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.get_parameter("model.layers.31.mlp.up_proj.weight").shape == (14336, 4096)
    assert model.get_parameter("lm_head.weight").dtype == torch.float32
    assert model.config._attn_implementation == "eager"  # type: ignore[union-attr]


def test_ids_stay_in_the_vocabulary_and_off_special_tokens(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = subject_of_target(folder(tmp_path, LLAMA))
    first, second = (example.kwargs["input_ids"] for example in found.examples(on_meta(found)))
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert (first.shape, second.shape) == ((2, 7), (3, 5))
    assert first.min() > 3
    assert first.unique().numel() > 7


QWEN2_VL = {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "image_token_id": 151655,
    "text_config": {
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]},
    },
    "vision_config": {"hidden_size": 3584},
}


def test_a_text_holds_as_many_image_tokens_as_the_model_makes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = subject_of_target(folder(tmp_path, QWEN2_VL))
    full = found.examples(on_meta(found))
    names = {"input_ids", "pixel_values", "image_grid_thw", "mm_token_type_ids"}
    assert [set(example.kwargs) for example in full] == [names, names]
    kinds = full[0].kwargs["mm_token_type_ids"]
    assert isinstance(kinds, torch.Tensor)
    assert kinds.sum(dim=1).tolist() == [4, 4]
    assert found.small is not None
    assert [set(example.kwargs) for example in run(found.small)] == [names, names]


def test_a_small_llama_keeps_groups_of_query_heads(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    small = subject_of_target(f"hf:{folder(tmp_path, LLAMA)}").small
    assert small is not None
    model = small.build()
    assert model.get_parameter("model.layers.2.self_attn.k_proj.weight").shape == (16, 32)
    assert model.get_parameter("model.layers.2.self_attn.q_proj.weight").shape == (32, 32)
    assert model.get_parameter("model.layers.2.mlp.up_proj.weight").shape == (48, 32)
    run(small)


def test_arguments_replace_fields_of_a_configuration(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = subject_of_target(f"hf:{folder(tmp_path, LLAMA)}", model_args={"num_hidden_layers": 1})
    assert "model.layers.1.mlp.up_proj.weight" not in on_meta(found).state_dict()
    assert found.version != subject_of_target(f"hf:{tmp_path}").version


def test_numbers_that_json_has_not_are_read_as_transformers_tags_them(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_heads": 4, "head_dim": 8, "vocab_size": 30, "n_groups": 1}
    limit = {"time_step_limit": [0.0, {"__float__": "Infinity"}]}
    told = {"model_type": "mamba2", "architectures": ["Mamba2Model"], "num_hidden_layers": 1}
    model: Any = subject_of_target(f"hf:{folder(tmp_path, {**told, **sizes, **limit})}").build()
    assert model.config.time_step_limit[1] == float("inf")


@pytest.mark.parametrize(("share", "held"), [(0.0, False), (0.05, True)])
def test_what_stands_for_hidden_frames_is_there_only_where_some_are(
    tmp_path: Path, share: float, held: bool
) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 5}
    heard = {"conv_dim": [8], "conv_stride": [2], "conv_kernel": [3], "num_attention_heads": 2}
    masks = {"mask_time_prob": share, "mask_feature_prob": 0.0, "num_conv_pos_embedding_groups": 2}
    told = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]}
    found = subject_of_target(f"hf:{folder(tmp_path, {**told, **sizes, **heard, **masks})}")
    assert ("masked_spec_embed" in on_meta(found).state_dict()) is held


MARIAN = {
    "model_type": "marian",
    "architectures": ["MarianMTModel"],
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "vocab_size": 30,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}


def test_what_a_class_never_saves_is_a_constant_of_its_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    named = subject_of_target(f"hf:{folder(tmp_path, MARIAN)}").build()
    positions = "model.encoder.embed_positions.weight"
    for model in (named, finished_subject(named).build()):
        assert positions not in model.state_dict()
        assert model.get_buffer(positions).any()
    assert any(re.search(name, positions) for name in ignored_names(named))


def test_a_finished_model_of_transformers_is_fed_by_the_names_of_its_inputs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MarianConfig(**MARIAN)
    found = finished_subject(transformers.MarianMTModel(config))
    model = found.build()
    fed = {name for example in found.examples(model) for name in example.kwargs}
    assert {"input_ids", "decoder_input_ids"} <= fed


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, "knows no model_type 'lama'\nhint: did you mean"),
        ({"model_type": "llama", "architectures": ["LlamaForCausal"]}, "no class 'LlamaForCausal'"),
        ({"model_type": "llama", "hidden_size": "wide"}, "its configuration is refused"),
    ],
)
def test_a_configuration_that_names_nothing_is_refused(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match=message):
        subject_of_target(f"hf:{folder(tmp_path, config)}")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "config.json is not JSON"), ("[1]", "holds no configuration")]
)
def test_a_folder_without_a_configuration_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        subject_of_target(f"hf:{tmp_path}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "names"),
    [
        (SD15, ["sample", "timestep", "encoder_hidden_states"]),
        (SDXL, ["sample", "timestep", "encoder_hidden_states", "added_cond_kwargs"]),
        (VAE, ["sample"]),
    ],
)
def test_a_diffusers_folder_gets_what_its_configuration_reads(
    tmp_path: Path, config: dict[str, object], names: list[str]
) -> None:
    pytest.importorskip("diffusers")
    found = subject_of_target(f"diffusers:{folder(tmp_path, config)}")
    full = found.examples(on_meta(found))
    assert list(full[0].kwargs) == names
    assert found.small is not None
    assert [list(example.kwargs) for example in run(found.small)] == [names, names]


def test_an_unknown_class_of_diffusers_gets_a_suggestion(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    target = folder(tmp_path, {"_class_name": "UNet2DConditionMode"})
    with pytest.raises(UsageError, match=r"no model class(?s:.*)did you mean .UNet2DC"):
        subject_of_target(target)
