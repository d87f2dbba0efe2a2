"""Claim: every architecture of transformers can be made small, built and run.

    python tests/benchmarks/zoo/hf_list.py [MODEL_TYPE ...]

One line for each model type: ok or the reason, seconds, parameters of the small model. Needs
transformers; nothing is downloaded.
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections import Counter
from typing import Any, NoReturn

import torch

from rebasin_cli.models.transformers.transformers_models import config_subject
from rebasin_cli.models.trial_run import failure_on, quiet

SECONDS = 30
transformers: Any = importlib.import_module("transformers")
# Defaults that are incomplete: the class refuses them, or its parts do not fit together.
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 24, 24]}
COMPLETE: dict[str, dict[str, object]] = {
    "deepseek_v2": {"num_experts_per_tok": 2},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "nemotron": {"head_dim": 256, "num_key_value_heads": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16, "num_hidden_layers": 32},
    "janus": {"vision_config": {"projection_dim": 4096}},
    "wav2vec2-bert": {"vocab_size": 40},
    "xmod": {"default_language": "en_XX"},
    "wav2vec2-conformer": {"vocab_size": 40},
    **{
        kind: {"prediction_length": 12, "context_length": 24}
        for kind in ("autoformer", "informer", "time_series_transformer")
    },
    "blip-2": {"image_token_index": 50265},
    **{
        kind: {"head_dim": 128}
        for kind in ("ministral", "hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text")
    },
    **{
        kind: {"rope_parameters": MROPE}
        for kind in ("qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text", "glm_ocr_text")
    },
    "qwen2_vl": {
        "text_config": {"hidden_size": 3584, "num_attention_heads": 28, "rope_parameters": MROPE},
        "vision_config": {"hidden_size": 3584},
    },
    "qwen2_5_vl": {
        "text_config": {"hidden_size": 3584, "num_attention_heads": 28, "rope_parameters": MROPE},
        "vision_config": {"out_hidden_size": 3584},
    },
    "qwen3_vl": {
        "text_config": {"hidden_size": 4096, "rope_parameters": MROPE},
        "vision_config": {"out_hidden_size": 4096},
    },
    "glm4v": {"text_config": {"rope_parameters": MROPE}},
}


def expired(*_: object) -> NoReturn:
    """Stop the model type that takes too long."""
    raise TimeoutError(f"longer than {SECONDS} s")


def configuration(kind: str) -> Any:
    """Return the default configuration of a model type, completed where that is needed."""
    return fitted(transformers.CONFIG_MAPPING[kind](**COMPLETE.get(kind, {})))


def fitted(config: Any) -> Any:
    """Return a configuration whose towers end as wide as its text is, and are read to their end.

    The defaults of towers and texts are those of different checkpoints.
    """
    width = getattr(getattr(config, "text_config", None), "hidden_size", None)
    if type(width) is not int:
        return config
    towers = [getattr(config, name, None) for name in config.sub_configs if name != "text_config"]
    for tower in (one for one in towers if one is not None):
        for name in ("out_hidden_size", "text_hidden_size"):
            if type(getattr(tower, name, None)) is int:
                setattr(tower, name, width)
        if hasattr(tower, "vision_use_head") and not config.model_type.startswith("siglip"):
            tower.vision_use_head = False  # which only a contrastive loss would read
    if type(vars(config).get("hidden_size")) is int:
        config.hidden_size = width
    if type(vars(config).get("vision_feature_layer")) is int:
        config.vision_feature_layer = -1
    for place, name in enumerate(("image_token_id", "audio_token_id", "video_token_id")):
        if getattr(config, name, 0) is None:
            setattr(config, name, 100 + place)
    return config


def outcome(kind: str) -> str:
    """Return `ok ...`, or what went wrong with one model type and where."""
    place = "config"
    try:
        with quiet():
            config = configuration(kind)
        place = "shrink"
        whole = config_subject(kind, config)
        subject = whole.small or whole
        place = "build"
        model = subject.build()
        place = "inputs"
        examples = subject.examples(model)
        place = "run"
        errors = [error for error in (failure_on(model, one) for one in examples) if error]
        if errors:
            raise errors[0]
    except Exception as error:
        return f"{place}: {type(error).__name__}: {str(error)[:300]}".replace("\n", " ")
    count = sum(tensor.numel() for tensor in model.parameters())
    names = ",".join(examples[0].kwargs)
    return f"ok {type(model).__name__} {count} parameters, {len(examples)} x {names}"


def main(kinds: list[str]) -> None:
    """Print a line for each model type and the count at the end."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, expired)
    names = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    counts: Counter[str] = Counter()
    for kind in kinds or list(names):
        start = time.perf_counter()
        signal.alarm(SECONDS)
        text = outcome(kind)
        signal.alarm(0)
        counts[text.split()[0]] += 1
        print(f"{kind:32} {time.perf_counter() - start:5.1f}s {text}", flush=True)
    print(dict(counts))


if __name__ == "__main__":
    main(sys.argv[1:])
