"""Which families are tried, and the pairs of models of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from tests.benchmarks.kept.forms import (
    BIN,
    FOLDER,
    PT,
    PTH,
    SAFETENSORS,
    SHARDED,
    TRAINING,
    Form,
)
from tests.benchmarks.kept.kinds import (
    Kind,
    backbone,
    headless,
    tied,
    tied_otherwise,
    timm_kind,
    torchvision_kind,
    transformers_kind,
)
from tests.benchmarks.kept.result import Side, Trial

TRANSFORMERS: Mapping[str, str] = {
    "albert": "AlbertForMaskedLM",
    "bart": "BartForConditionalGeneration",
    "bert": "BertForMaskedLM",
    "bloom": "BloomForCausalLM",
    "clip": "CLIPModel",
    "convnext": "ConvNextForImageClassification",
    "deberta-v2": "DebertaV2ForMaskedLM",
    "deit": "DeiTForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "distilbert": "DistilBertForMaskedLM",
    "electra": "ElectraForMaskedLM",
    "falcon": "FalconForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neo": "GPTNeoForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gptj": "GPTJForCausalLM",
    "llama": "LlamaForCausalLM",
    "mamba": "MambaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "mpt": "MptForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "opt": "OPTForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "roberta": "RobertaForMaskedLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "swin": "SwinForImageClassification",
    "t5": "T5ForConditionalGeneration",
    "vit": "ViTForImageClassification",
    "wav2vec2": "Wav2Vec2ForCTC",
    "whisper": "WhisperForConditionalGeneration",
}
# What a tiny configuration has to say more, where names do not show what belongs together.
FIELDS: Mapping[str, Mapping[str, object]] = {
    "gpt_neo": {
        "num_layers": 2,
        "attention_types": [[["global", "local"], 1]],
        "attention_layers": ["global", "local"],
    },
}
TIMM = (
    "test_vit",
    "test_resnet",
    "test_convnext",
    "test_efficientnet",
    "test_byobnet",
    "test_nfnet",
    "test_mambaout",
    "test_maxvit",
    "mobilenetv3_small_050",
    "resnet10t",
    "deit_tiny_distilled_patch16_224",
    "repghostnet_050",
)
TORCHVISION = (
    "squeezenet1_1",
    "mobilenet_v3_small",
    "mobilenet_v2",
    "regnet_x_400mf",
    "shufflenet_v2_x0_5",
    "regnet_y_400mf",
    "efficientnet_b0",
    "resnet18",
    "densenet121",
    "googlenet",
    "swin_t",
)
SHORT = ("transformers:bert", "transformers:gpt2", "transformers:llama", "timm:test_vit",
         "torchvision:squeezenet1_1")  # fmt: skip


def families() -> list[str]:
    """Return all families, as LIBRARY:NAME."""
    return [
        *(f"transformers:{name}" for name in TRANSFORMERS),
        *(f"timm:{name}" for name in TIMM),
        *(f"torchvision:{name}" for name in TORCHVISION),
    ]


def trials(family: str) -> Iterator[Trial]:
    """Yield the pairs of models of one family."""
    library, _, name = family.partition(":")
    yield from {
        "transformers": _of_transformers,
        "timm": _of_timm,
        "torchvision": _of_torchvision,
    }[library](family, name)


def _of_transformers(family: str, name: str) -> Iterator[Trial]:
    kind = transformers_kind(name, TRANSFORMERS[name], **FIELDS.get(name, {}))
    alike = partial(_alike, family)
    yield from (Trial(family, f.name, Side(kind, f), Side(kind, f)) for f in (FOLDER, BIN, SHARDED))
    yield Trial(family, PT.name, *_both(kind, PT))
    yield Trial(family, "folder and .bin", Side(kind, FOLDER), Side(kind, BIN))
    other = tied_otherwise(kind)
    if other is not None:
        words = ("tied", "untied") if tied(kind) else ("untied", "tied")
        yield alike(f"folder, {words[1]}", other)
        yield _unlike(family, f"{words[0]} and {words[1]}", kind, other)
        yield _unlike(family, f"{words[1]} and {words[0]}", other, kind)
    bare = backbone(kind)
    if bare is not None:
        yield alike("backbone", bare)
        yield _unlike(family, "head and backbone", kind, bare)
        yield _unlike(family, "backbone and head", bare, kind)


def _of_timm(family: str, name: str) -> Iterator[Trial]:
    kind = timm_kind(name)
    for form in (PTH, TRAINING, SAFETENSORS, FOLDER):
        yield Trial(family, form.name, *_both(kind, form))
    bare = headless(kind)
    yield Trial(family, "no head", *_both(bare, PTH))
    yield Trial(family, "head and none", Side(kind, PTH), Side(bare, PTH), refusable=True)
    yield Trial(family, "none and head", Side(bare, PTH), Side(kind, PTH), refusable=True)


def _of_torchvision(family: str, name: str) -> Iterator[Trial]:
    kind = torchvision_kind(name)
    for form in (PTH, TRAINING, SAFETENSORS):
        yield Trial(family, form.name, *_both(kind, form))


def _both(kind: Kind, form: Form) -> tuple[Side, Side]:
    return Side(kind, form), Side(kind, form)


def _alike(family: str, name: str, kind: Kind) -> Trial:
    return Trial(family, name, *_both(kind, FOLDER))


def _unlike(family: str, name: str, a: Kind, b: Kind) -> Trial:
    return Trial(family, name, Side(a, FOLDER), Side(b, FOLDER), refusable=True)
