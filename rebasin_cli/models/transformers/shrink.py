"""The same architecture, tiny: for proofs by running, and for a zoo that fits into memory.

A configuration of transformers is a tree of named numbers. What a number is shows in its name, and
what must stay equal was equal before: so a width is replaced by its value, the same everywhere, and
other numbers by their names.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any

from rebasin_cli.models.transformers.shrink_names import (
    FEEDFORWARD,
    GROUPED,
    HIDDEN,
    LIMITS,
    VOCABULARY,
    means,
)
from rebasin_cli.models.transformers.shrink_related import relate_fields
from rebasin_cli.models.trial_run import quiet

LAYERS, HEADS = 3, 4
LAYER_FIELDS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
STAGES = 4  # a list of up to so many may describe stages, of which each is different
PLAIN = 16  # widths up to this are small already, and tokens up to this are special ones


@dataclasses.dataclass(frozen=True)
class ShrunkSizes:
    """What numbers become, the same in all parts of a tree: old width to new, old id to new."""

    widths: Mapping[int, int]
    tokens: Mapping[int, int]


@dataclasses.dataclass(frozen=True)
class ConfigLevel:
    """One configuration of the tree: its own fields, and which of its layers stay."""

    fields: Mapping[str, Any]
    layers: tuple[int, ...]
    depth: int


def shrink_subject(config: Any) -> Any:
    """Return a tiny configuration of the same architecture; the given one stays as it is.

    Groups of query heads and of experts stay groups, and every kind of layer stays. An unusual name
    is not understood: the result may be one that its class refuses.
    """
    return next(shrunk_ways(config))


def shrunk_ways(config: Any) -> Iterator[Any]:
    """Yield configurations of the same architecture, the smallest first.

    Of the first, no two widths are equal that were not. The next has widths that norms of 32 groups
    accept. Of the last, widths are an equal part of what they were, so that sums and products that
    no name tells hold as before.
    """
    numbers = list(_numbers(config))
    tokens = _tokens(numbers)
    for widths in (_widths(numbers, HIDDEN), _widths(numbers, GROUPED), _parts(numbers)):
        yield _shrunk(config, ShrunkSizes(widths, tokens))


def _shrunk(config: Any, sizes: ShrunkSizes) -> Any:
    """Return one configuration of the tree, small."""
    fields = _fields(config)
    level = _level(fields, _outputs(config))
    new = {name: _value(name, value, level, sizes) for name, value in fields.items()}
    new = relate_fields(fields, _reconciled(fields, new))
    if isinstance(config, dict):
        return new
    if _outputs(config) > 0:
        new["out_indices"] = _stages(config.out_indices, level)
    try:
        with quiet():
            return type(config)(**new)
    except Exception:  # older classes take other arguments than they keep
        made = copy.deepcopy(config)
        for name, value in new.items():
            setattr(made, name, value)
        return made


def _fields(config: Any) -> dict[str, Any]:
    """Return what a configuration is made from, without what it derives from that."""
    if isinstance(config, dict):
        return dict(config)
    names = [field.name for field in dataclasses.fields(config) if field.init]
    return {name: vars(config)[name] for name in names if name in vars(config)}


def _is_config(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _numbers(config: Any) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a tree with their names, also those in lists."""
    for name, value in _fields(config).items():
        if isinstance(value, dict) or _is_config(value):
            yield from _numbers(value)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if type(item) is int:
                yield str(name), item


def _widths(numbers: Sequence[tuple[str, int]], steps: Sequence[int]) -> dict[int, int]:
    """Return new widths in the order of the old ones; inner widths differ from hidden ones."""
    wide = _wide_numbers(numbers)
    outer = {value for name, value in wide if not means("inner", name)}
    inner = {value for _, value in wide} - outer
    hidden = chain(steps, count(steps[-1] + steps[0] // 4, steps[0] // 4))
    feedforward = chain(FEEDFORWARD, count(FEEDFORWARD[-1] + 8, 8))
    pairs = chain(
        zip(sorted(outer), hidden, strict=False), zip(sorted(inner), feedforward, strict=False)
    )
    return {value: min(value, new) for value, new in pairs}


def _wide_numbers(numbers: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(name, value) for name, value in numbers if value > PLAIN and _is_width(name)]


def _parts(numbers: Sequence[tuple[str, int]]) -> dict[int, int]:
    """Return widths divided by the power of two that leaves all whole and none below 16."""
    old = {value for _, value in _wide_numbers(numbers)}
    powers = (2**power for power in range(8, -1, -1))
    part = next(one for one in powers if all(v % one == 0 and v // one >= PLAIN for v in old))
    return {value: value // part for value in old}


def _is_width(name: str) -> bool:
    others = ("head sizes", "shared heads", "head counts", "kept", "patches", "images")
    if any(means(other, name) for other in others):
        return False
    return means("widths", name) and not any(pattern.fullmatch(name) for pattern, _ in LIMITS)


def _tokens(numbers: Sequence[tuple[str, int]]) -> dict[int, int]:
    """Return new special ids, distinct, the large ones from the end of the small vocabulary."""
    old = [value for name, value in numbers if means("tokens", name) and value > PLAIN]
    return dict(zip(dict.fromkeys(old), count(VOCABULARY - 1, -1), strict=False))


def _outputs(config: Any) -> int:
    """Return how many of its stages a backbone gives away."""
    return len(getattr(config, "out_indices", None) or ())


def _stages(indices: Sequence[int], level: ConfigLevel) -> list[int]:
    """Return as many stages as before, the last ones if there are fewer."""
    last = len(level.layers)
    cut = level.depth > last and max(indices) > last
    return list(range(last - len(indices) + 1, last + 1)) if cut else list(indices)


def _sections(rope: Any, before: int, after: int) -> Any:
    """Return rotary parameters whose sections fill a head of another size as they did before."""
    old = rope.get("mrope_section") if isinstance(rope, dict) else None
    if not (old and before):
        return rope
    total = sum(old) * after // before
    return {**rope, "mrope_section": [total - 2 * (total // 3), total // 3, total // 3]}


def _level(fields: Mapping[str, Any], outputs: int) -> ConfigLevel:
    """Choose the layers that stay: the first of each kind, then the first ones."""
    depth = next((fields[name] for name in LAYER_FIELDS if type(fields.get(name)) is int), 0)
    each = [v for v in fields.values() if isinstance(v, (list, tuple)) and len(v) == depth]
    kinds = [tuple(str(one[layer]) for one in each) for layer in range(depth)]
    first = [place for place, kind in enumerate(kinds) if kinds.index(kind) == place]
    indices = [value for name, value in fields.items() if means("indices", name) and value]
    wanted = max(LAYERS, outputs, *(len(value) for value in indices), 0)
    rest = [place for place in range(depth) if place not in first]
    chosen = sorted([*first[:STAGES], *rest[: max(0, wanted - len(first))]])
    return ConfigLevel(fields, tuple(chosen), depth)


def _value(name: str, value: Any, level: ConfigLevel, sizes: ShrunkSizes) -> Any:
    """Return what one field becomes."""
    if _is_config(value) or (isinstance(value, dict) and not _is_table(value)):
        return _shrunk(value, sizes)
    if isinstance(value, (list, tuple)):
        return _list(name, value, level, sizes)
    if name in LAYER_FIELDS and level.depth == value and len(level.layers) < value:
        return len(level.layers)
    if name == "num_labels" or type(value) is not int or value < 1:
        return value
    return _number(name, value, level.fields, sizes)


def _is_table(value: Mapping[Any, Any]) -> bool:
    """Return whether a dict has no names: labels by id, heads to prune by layer."""
    return not all(isinstance(key, str) for key in value)


def _list(name: str, value: Sequence[Any], level: ConfigLevel, sizes: ShrunkSizes) -> Any:
    """Return a list for the chosen layers, or the same list of smaller numbers."""
    kind: Any = type(value)
    if means("indices", name) and level.depth and value and type(value[0]) is int:
        last = len(level.layers)
        return kind(range(last - len(value), last) if len(value) <= last else value)
    if len(value) == level.depth > STAGES:
        value = [value[layer] for layer in level.layers]
    return kind(
        _number(name, item, level.fields, sizes) if type(item) is int and item > 0 else item
        for item in value
    )


def _number(name: str, value: int, fields: Mapping[str, Any], sizes: ShrunkSizes) -> int:
    """Return what a positive number becomes."""
    if means("tokens", name):
        return sizes.tokens.get(value, value)
    if name.endswith("window_size"):  # of windows of patches; larger ones count something else
        return 2 if value <= 2 * PLAIN else value
    for pattern, limit in LIMITS:
        if pattern.fullmatch(name):
            return min(value, limit)
    if means("shared heads", name):
        return _shared(value, fields)
    if means("head counts", name):
        return next(count for count in (HEADS, 2, 1) if count <= value)
    if means("head sizes", name) or means("patches", name):
        return min(value, 8)
    if means("images", name):
        return min(value, _image(fields))
    return sizes.widths.get(value, value) if _is_width(name) else value


def _shared(value: int, fields: Mapping[str, Any]) -> int:
    """Return key-value heads: as many as queries have, one, or half."""
    counts = [k for k in fields if means("head counts", k) and not means("shared heads", k)]
    if value == 1 or value in [fields[name] for name in counts]:
        return min(value, HEADS)
    return 2


def _image(fields: Mapping[str, Any]) -> int:
    """Return a side of 4 patches, or one that networks of stages can halve five times."""
    patch = fields.get("patch_size")
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    return 4 * min(patch, 8) if isinstance(patch, int) and patch > 4 else 64


def _reconciled(old: Mapping[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with products as they were: heads * size = width, widths * expansion."""
    if {"qk_nope_head_dim", "qk_rope_head_dim"} <= old.keys():
        return {**new, **_latent_heads(old, new)}
    sizes = [name for name, value in old.items() if means("head sizes", name) and value]
    made = {**new, **{name: _head_size(name, old, new) for name in sizes}}
    before, after = (fields.get("head_dim") or _ratio(fields) for fields in (old, made))
    ropes = [name for name in made if name.startswith("rope_")]
    return {**made, **{name: _sections(made[name], before, after) for name in ropes}}


def _ratio(fields: Mapping[str, Any]) -> int:
    """Return the size of a head that is not written down."""
    hidden, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else 0


def _latent_heads(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of heads of which a part is rotated."""
    before, after = (
        fields["qk_nope_head_dim"] + fields["qk_rope_head_dim"] for fields in (old, new)
    )
    named = [name for name in ("qk_head_dim", "head_dim") if type(old.get(name)) is int]
    return {name: after if old[name] == before else new["qk_rope_head_dim"] for name in named}


def _head_size(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
    """Return a size of heads that fills the width it filled before, if it filled one."""
    counts = [
        key
        for key, value in old.items()
        if means("head counts", key) and not means("shared heads", key) and type(value) is int
    ]
    counts.sort(key=lambda key: key.split("_")[0] != name.split("_", maxsplit=1)[0])
    widths = [key for key, value in old.items() if _is_width(key) and type(value) is int]
    factors = [key for key in old if key.endswith("expand") and type(old[key]) is int]
    for heads in counts:
        for width in widths:
            for factor in (None, *factors):
                grown = old[factor] if factor else 1
                if old[width] * grown == old[heads] * old[name]:
                    return new[width] * grown // new[heads]
    return new[name]
