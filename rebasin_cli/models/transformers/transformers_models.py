"""Configurations of transformers, as models with inputs."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.models.libraries.optional_packages import optional, version_of
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.transformers.example_size import configurations_in
from rebasin_cli.models.transformers.library_names import unsaved_names
from rebasin_cli.models.transformers.shrink import shrink_subject, shrunk_ways
from rebasin_cli.models.transformers.transformers_inputs import (
    Small,
    find_inputs,
    transformers_examples,
)
from rebasin_cli.models.trial_run import CPU, quiet
from rebasin_cli.models.user.construction import cause_of, construct
from rebasin_cli.models.user.user_model import subject_of

# What a head is good for does not matter; that the model has one does: without, its hidden states
# are outputs and keep their order.
HEADS = (
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "TEXT_TO_WAVEFORM",
    "TEXT_TO_SPECTROGRAM",
    "IMAGE_TEXT_TO_TEXT",
    "MASKED_LM",
    "CAUSAL_LM",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "PRETRAINING",
    "SEQUENCE_CLASSIFICATION",
)

# Nothing kept for a next call. In training: every layer, and short sounds with some frames hidden,
# if any are: else a model has nothing to put in their place.
PLAIN = {"use_cache": False, "layerdrop": 0.0}
HIDING = {"mask_time_prob": 0.5, "mask_time_length": 1, "mask_feature_prob": 0.0}
HIDES = ("mask_time_prob", "mask_feature_prob")

CLASSIFIER = "SequenceClassification"
ENOUGH = 0.9  # of the parameters: a pooler that no head reads is not worth another small model


def transformers_subject(name: str, fields: Mapping[str, Any]) -> Subject:
    """Return the model of a parsed config.json, in the class that its `architectures` names."""
    transformers = optional("transformers")
    kind = str(fields.get("model_type", ""))
    known = list(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    if kind not in known:
        hint = suggest(kind, known) or "--model file.py:Class traces any class"
        raise UsageError(f"{name}: transformers knows no model_type {kind!r}", hint=hint)
    try:
        with quiet():
            config = transformers.CONFIG_MAPPING[kind].from_dict(_with_floats(fields))
    except Exception as error:  # validation differs from class to class
        raise UsageError(f"{name}: its configuration is refused", detail=cause_of(error)) from error
    return config_subject(name, config)


def _with_floats(value: Any) -> Any:
    """Return a part of a config.json with the numbers that JSON has not, tagged by transformers."""
    if isinstance(value, Mapping):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def config_subject(name: str, config: Any) -> Subject:
    """Return the model of a configuration object, and the same architecture made small."""
    architecture = _architecture(name, config)
    little = f"{name} (small)"
    small = cache(partial(_small, little, architecture, config))

    def inputs(model: nn.Module) -> tuple[Example, ...]:
        return transformers_examples(small(), model)

    def again() -> nn.Module:
        return _construct_model(little, architecture, small().config)

    text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    version = f"{version_of('transformers')} {architecture.__name__} {digest}"
    tiny = Subject(little, again, inputs, version=f"{version} small")
    build = partial(_construct_model, name, architecture, config)
    return Subject(name, build, inputs, small=tiny, version=version)


def finished_subject(model: nn.Module | Callable[..., nn.Module]) -> Subject:
    """Return a finished model, or what builds one.

    A model of transformers is fed as one that is built from its configuration: by what the same
    class made small accepts.
    """
    found, kind = subject_of(model), type(model)
    if not (isinstance(model, nn.Module) and kind.__module__.startswith("transformers.")):
        return found
    small = cache(partial(_small, f"{found.name} (small)", kind, model.config))

    def build() -> nn.Module:
        own = found.build()
        _keep_computed(own)
        return own

    return replace(found, build=build, examples=lambda own: transformers_examples(small(), own))


def _small(name: str, architecture: Any, config: Any) -> Small:
    """Return the way to make a configuration small of which most can be fed, if one can be built.

    The next way is tried where inputs reach less than nearly everything.
    """
    found: list[Small] = []
    for tiny in shrunk_ways(config):
        try:
            with CPU:
                model = _construct_model(name, architecture, tiny)
        except UsageError:
            continue
        found.append(Small(tiny, model, find_inputs(model)))
        if found[-1].share > ENOUGH:
            break
    return max(found, key=lambda one: one.share, default=Small(shrink_subject(config), None, ()))


def _construct_model(name: str, architecture: Any, config: Any) -> nn.Module:
    return construct(name, partial(_built, architecture, config))


def _built(architecture: Any, config: Any) -> nn.Module:
    """Build a model on plain kernels: fused attention and ragged experts have no shapes to trace.

    Always float32, whatever the checkpoint's dtype: the symmetry is the same.
    """
    ours = copy.deepcopy(config)
    for field, value in PLAIN.items():
        _each(ours, field, value)
    for part in configurations_in(ours, ()):
        if any(getattr(part, field, 0) for field in HIDES):
            vars(part).update({field: v for field, v in HIDING.items() if hasattr(part, field)})
        if getattr(part, "pad_token_id", 0) is None and CLASSIFIER in architecture.__name__:
            part.pad_token_id = 0  # asked for by batches, and in none of them
    ours._attn_implementation = "eager"
    if hasattr(ours, "_experts_implementation"):
        ours._experts_implementation = "batched_mm"
    model: nn.Module = architecture._from_config(ours, dtype=torch.float32)
    _keep_computed(model)
    return model


def _keep_computed(model: nn.Module) -> None:
    """Make constants of what a class computes anew and never saves, as Marian's positions."""
    for name in unsaved_names(model):
        home, _, leaf = name.rpartition(".")
        module = model.get_submodule(home)
        value = getattr(module, leaf).detach()
        delattr(module, leaf)
        module.register_buffer(leaf, value, persistent=False)


def _each(config: Any, field: str, value: object) -> None:
    """Set a field of a configuration and of those inside it, where it exists."""
    if hasattr(config, field):
        setattr(config, field, value)
    for key in getattr(config, "sub_configs", ()):
        if getattr(config, key, None) is not None:
            _each(getattr(config, key), field, value)


def _architecture(name: str, config: Any) -> Any:
    """Return the class that a configuration names, else one with a head, else the bare model."""
    transformers = optional("transformers")
    for title in config.architectures or ():
        found = getattr(transformers, title, None)
        if found is None:
            hint = suggest(title, dir(transformers))
            raise UsageError(f"{name}: transformers has no class {title!r}", hint=hint)
        return found
    auto = optional("transformers", "transformers.models.auto.modeling_auto")
    tables = [f"MODEL_FOR_{head}_MAPPING" for head in HEADS] + ["MODEL_MAPPING"]
    for table in tables:
        mapping = getattr(auto, table, {})
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise UsageError(f"{name}: no architecture is known for model_type {config.model_type!r}")
