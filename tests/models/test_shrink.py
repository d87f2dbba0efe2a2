"""A configuration made small is the same architecture: groups, kinds of layers, experts stay."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, at import
transformers: Any = pytest.importorskip("transformers")

from rebasin_cli.models.transformers.shrink import shrink_subject  # noqa: E402
from rebasin_cli.models.transformers.transformers_models import config_subject  # noqa: E402

KINDS = [
    *("albert", "bart", "bert", "bloom", "clip", "convnext"),
    *("deepseek_v3", "distilbert", "electra", "falcon", "gemma", "gemma3_text"),
    *("gpt2", "gpt_neox", "gptj", "llama", "mamba", "mamba2"),
    *("mistral", "mixtral", "mobilebert", "opt", "phi", "qwen2_moe"),
    *("qwen3", "resnet", "roberta", "segformer", "siglip", "swin"),
    *("t5", "vit", "wav2vec2", "whisper"),
]


def config(kind: str, **fields: object) -> Any:
    return transformers.CONFIG_MAPPING[kind](**fields)


@pytest.mark.parametrize("kind", KINDS)
def test_the_small_model_runs_on_two_sizes(kind: str) -> None:
    small = config_subject(kind, config(kind)).small
    assert small is not None
    model = small.build()
    examples = small.examples(model)
    assert sum(tensor.numel() for tensor in model.parameters()) < 3_000_000
    assert len(examples) == 2
    with torch.no_grad():
        for example in examples:
            model(*example.args, **example.kwargs)


@pytest.mark.parametrize("kind", ["llama", "deepseek_v3", "clip", "swin"])
def test_the_given_configuration_stays_as_it_is(kind: str) -> None:
    given = config(kind)
    before = copy.deepcopy(given.to_dict())
    shrink_subject(given)
    assert given.to_dict() == before


@pytest.mark.parametrize(("given", "kept"), [(32, 4), (8, 2), (1, 1)])
def test_shared_heads_stay_all_some_or_one(given: int, kept: int) -> None:
    small = shrink_subject(config("llama", num_attention_heads=32, num_key_value_heads=given))
    assert (small.num_attention_heads, small.num_key_value_heads) == (4, kept)


def test_every_kind_of_layer_stays() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    small = shrink_subject(config("gemma3_text", num_hidden_layers=12, layer_types=kinds * 2))
    assert set(small.layer_types) == set(kinds)
    assert small.num_hidden_layers == len(small.layer_types) == 3


def test_a_router_still_has_a_choice() -> None:
    small = shrink_subject(config("deepseek_v3"))
    assert small.n_routed_experts % small.n_group == 0
    assert small.num_experts_per_tok < small.n_routed_experts
    assert small.topk_group < small.n_group


def test_equal_widths_stay_equal_and_others_apart() -> None:
    small = shrink_subject(config("clip"))
    assert small.text_config.hidden_size == small.text_config.projection_dim
    assert small.vision_config.hidden_size != small.text_config.hidden_size
    assert small.vision_config.intermediate_size != small.vision_config.hidden_size


def test_special_tokens_stay_distinct_and_inside_the_vocabulary() -> None:
    small = shrink_subject(
        config("llama", bos_token_id=128000, eos_token_id=128001, vocab_size=128256)
    )
    assert small.bos_token_id != small.eos_token_id
    assert max(small.bos_token_id, small.eos_token_id) < small.vocab_size
