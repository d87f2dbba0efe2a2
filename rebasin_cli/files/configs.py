"""What the config.json of each model says that shapes do not show, compared.

Equal shapes are not an equal network: with another number of heads the same matrices compute
something else, and units that one model may exchange the other may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import CheckpointError, Problem, warn
from rebasin_cli.models.libraries.config_json import SCHEMES, read_config
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.language.model import Spec, entry_names

# Words of keys, as transformers, diffusers and timm have them. What such a key says decides which
# units may change places, or what is computed of them.
_STRUCTURE = frozenset(
    {"head", "heads", "kv", "rope", "rotary", "alibi", "norm", "layernorm", "act", "activation"}
    | {"afn", "parallel", "groups", "type"}
)
_STRUCTURAL_KEYS = frozenset(
    {"feed_forward_proj", "query_pre_attn_scalar", "scale_embedding", "normalize_before"}
    | {"layer_types", "multi_query", "new_decoder_architecture", "_class_name"}
)
# What such a key says changes the function a little, and no symmetry.
_DETAIL = frozenset(
    {"eps", "epsilon", "dropout", "pdrop", "drop", "dropped", "layerdrop", "window"}
    | {"softcapping", "multiplier"}
)
# What changes the function more, and no symmetry; older files leave it to defaults.
_SWITCHES = frozenset({"scale", "tok"})
_SWITCH_KEYS = frozenset({"is_decoder"})
# Keys with a word of the structure in them that shapes show, or that say nothing of the network.
_SILENT = frozenset(
    {"type_vocab_size", "type_vocab_sizes", "modality_type_vocab_size", "problem_type"}
    | {"chunk_size_lm_head", "use_kv_cache"}
)
# What stands inside these keys stood beside them in older files.
_UNWRAPPED = frozenset(("rope_parameters", "rope_scaling"))
_UNSAID = (None, "default")
_ABSENT = object()

ConfigFacts = Mapping[str, Any]


def check_configs(models: Sequence[Checkpoint], tracing: Tracing) -> None:
    """Raise CheckpointError if the models' config.json tell of different networks.

    The folder that --model names counts too. Smaller differences are warned of.
    """
    told = [(str(model.path), model.config) for model in models]
    scheme, _, folder = (tracing.target or "").partition(":")
    if scheme in SCHEMES:
        told.append((folder, {**read_config(folder), **tracing.arguments}))
    compare_configs(told)


def compare_configs(configs: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise CheckpointError if configurations, each with its place, tell of different networks.

    An empty one, of a model without a config.json, contradicts nothing.
    """
    told = [(where, settings_told(config)) for where, config in configs if config]
    if not told:
        return
    (first, ours), *others = told
    problems = []
    for where, theirs in others:
        apart = list(_differences(ours, theirs))
        structure = [line for key, line in apart if _refused(key, ours, theirs)]
        if structure:
            problems.append(other_configuration(where, first, structure))
        elif apart:
            details = ", ".join(line for _, line in apart)
            told_of = f"{where} and {first} differ in config.json: {details}"
            warn(told_of)
    if problems:
        raise CheckpointError(*problems)


def check_sizes(spec: Spec, models: Sequence[Checkpoint]) -> None:
    """Raise CheckpointError if a size that the spec takes from config.json is another elsewhere."""
    keys = sorted(_config_keys(spec))
    told = [(str(model.path), model.config) for model in models if model.config]
    problems = []
    for where, config in told[1:]:
        pairs = [(key, _inside(told[0][1], key), _inside(config, key)) for key in keys]
        lines = [_line(key, a, b) for key, a, b in pairs if None not in (a, b) and a != b]
        if lines:
            problems.append(other_configuration(where, told[0][0], lines))
    if problems:
        raise CheckpointError(*problems)


def other_configuration(where: str, first: str, lines: Sequence[str]) -> Problem:
    """Return the refusal of a model whose configuration is another one."""
    return Problem(
        f"its config.json is not that of {first}",
        where=where,
        detail="\n".join(lines),
        hint="with these, equal shapes are different networks; correct the file that is wrong",
    )


def settings_told(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says as flat keys, with what it leaves to be derived."""
    flat = dict(_flat(config, ""))
    for key in [key for key in flat if _last(key) == "num_attention_heads"]:
        inside, heads = key.removesuffix("num_attention_heads"), flat[key]
        flat.setdefault(f"{inside}num_key_value_heads", heads)
        width = flat.get(f"{inside}hidden_size")
        if isinstance(width, int) and isinstance(heads, int) and heads > 0:
            flat.setdefault(f"{inside}head_dim", width // heads)
    return flat


def _flat(config: Mapping[str, Any], inside: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            below = dict(_flat(value, "" if key in _UNWRAPPED else f"{key}."))
            rope = key in _UNWRAPPED
            yield from ((f"{inside}{_of_rope(k) if rope else k}", v) for k, v in below.items())
        elif value not in _UNSAID:
            yield f"{inside}{key}", value


def _of_rope(key: str) -> str:
    """Return a key of what rotary settings hold, such as `rope_factor`, as one of the outside."""
    outer, dot, name = key.rpartition(".")
    return key if "rope" in name or "rotary" in name else f"{outer}{dot}rope_{name}"


def _differences(ours: ConfigFacts, theirs: ConfigFacts) -> Iterator[tuple[str, str]]:
    """Yield the keys that matter and differ, each with a line of words."""
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key, _ABSENT), theirs.get(key, _ABSENT)
        both = key in ours and key in theirs
        if a != b and (_structural(key) or _words(key) & _DETAIL or (both and _switches(key))):
            yield key, _line(key, a, b)


def _refused(key: str, ours: ConfigFacts, theirs: ConfigFacts) -> bool:
    """Return whether a difference makes another network; what one does not say may be the same."""
    return key in ours and key in theirs and _structural(key)


def _structural(key: str) -> bool:
    words = _words(key)
    return bool(words & _STRUCTURE or _last(key) in _STRUCTURAL_KEYS) and not words & _DETAIL


def _switches(key: str) -> bool:
    return bool(_words(key) & _SWITCHES) or _last(key) in _SWITCH_KEYS


def _words(key: str) -> set[str]:
    """Return the words of a key: `text_config.num_attention_heads`, `attnDropout`, `n_head`."""
    name = _last(key)
    if name in _SILENT or name.startswith("_"):
        return set()
    return set(re.split(r"[_\W]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _line(key: str, ours: Any, theirs: Any) -> str:
    mine = "not said" if ours is _ABSENT else repr(ours)
    return f"{key} is {'not said' if theirs is _ABSENT else repr(theirs)}, there {mine}"


def _config_keys(spec: Spec) -> set[str]:
    """Return the keys of config.json that a spec takes sizes from."""
    named = {name for entry in spec.tensors.values() for name in entry_names(entry)}
    declared = {group.size for group in spec.groups.values()}
    paths = {*spec.sizes.values(), *named, *declared}
    return {p.removeprefix("config.") for p in paths if isinstance(p, str) and p[:7] == "config."}


def _inside(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
