"""What the config.json of a wider model says otherwise than that of the narrow one."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice, product
from math import prod
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import CheckpointError, UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.network.network import network_of, subject_for
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec_choice.traced_fit import class_in_config, of_library
from rebasin_cli.widening.growth import Growth
from rebasin_cli.widening.wider_checkpoint import as_wider

ConfigChanges = Mapping[str, Any]

# Whole numbers of a config.json that are no widths, by parts of their keys.
_NO_WIDTHS = ("_id", "vocab", "layers", "position", "max_", "num_labels", "seed", "version")
# Widths that follow from others where they are null, as GPT-2's hidden layers.
_UNSAID = ("inner", "intermediate", "ffn", "head_dim")
_TRIED, _LISTED = 256, 1 << 14
_SAY = "--wide-args says it, as '{\"intermediate_size\": 512}'"


def settings_like(narrow: ConfigChanges, wide: ConfigChanges) -> ConfigChanges:
    """Return the widths that another config.json has otherwise, or has besides."""
    keys = [key for key, value in wide.items() if _is_width(key, value)]
    return {key: wide[key] for key in keys if narrow.get(key) != wide[key]}


def found_settings(
    model: Checkpoint, bound: BoundSpec, growth: Growth, selection: Selection
) -> ConfigChanges:
    """Return the widths in a model's config.json that change: with them its class has the shapes.

    Raises UsageError where none is known, or its library is not installed.
    """
    headers = headers_of([model])
    found = class_in_config(headers)
    if found is None or importlib.util.find_spec(found[0]) is None:
        raise UsageError(
            "what config.json has to say of the wider model is not known",
            where=str(model.path),
            hint=f"{_SAY}; -o FILE.safetensors writes the weights alone",
        )
    tracing = of_library(found[0], headers, Tracing())
    refusals = ["no width in it is that of these groups"]
    for settings in islice(_candidates(model.config, bound, growth), _TRIED):
        refusal = _refusal(model, growth, selection, tracing, settings)
        if refusal is None:
            return settings
        refusals.append(f"{json.dumps(settings)}: {refusal}")
    raise UsageError(
        f"{found[1]} cannot be built with tensors of these widths",
        where=str(model.path),
        detail=refusals[-1],
        hint=f"all layers have to be of one width there; if other settings do it, {_SAY}",
    )


def _refusal(
    model: Checkpoint,
    growth: Growth,
    selection: Selection,
    tracing: Tracing,
    settings: ConfigChanges,
) -> str | None:
    """Return why a class with other settings has not the tensors of the wider model."""
    asked = Tracing(target=tracing.target, arguments=settings)
    try:
        network_of(subject_for(asked), as_wider(model, growth, settings), selection)
    except (CheckpointError, UsageError) as error:
        first = error.problems[0]
        return first.detail.partition("\n")[0] or first.what
    return None


def _candidates(
    config: ConfigChanges, bound: BoundSpec, growth: Growth
) -> Iterator[dict[str, Any]]:
    """Yield what a config.json may say otherwise: what tells of most sizes first."""
    news = _sizes(bound, growth)
    keys = [key for key, value in config.items() if _is_width(key, value) and value in news]
    unsaid = [k for k, v in config.items() if v is None and any(part in k for part in _UNSAID)]
    kept = {n for g in bound.groups.values() if g.name not in growth.sizes for n in [g.size]}
    anything = sorted(kept.union(*news.values()))
    choices = [[None, *sorted(news[config[key]])] for key in keys]
    choices += [[None, *anything] for _ in unsaid]
    keys += unsaid
    ways = (
        {key: new for key, new in zip(keys, way, strict=True) if new is not None}
        for way in islice(product(*choices), _LISTED)
    )
    for said in sorted(filter(None, ways), key=lambda said: (-_told(config, said), len(said))):
        yield said
        yield from _with_heads(config, said)


def _told(config: ConfigChanges, said: ConfigChanges) -> int:
    """Return how many changes of a size are told of: the number of heads shows in no shape."""
    return len({(config[key], new) for key, new in said.items() if config[key] is not None})


def _sizes(bound: BoundSpec, growth: Growth) -> dict[int, set[int]]:
    """Return what sizes become: of groups, and of groups with all their parents."""
    news: defaultdict[int, set[int]] = defaultdict(set)
    for group in bound.groups.values():
        chain = [*group.parents, group.name]
        after = [growth.sizes.get(g, (0, bound.groups[g].size))[1] for g in chain]
        pairs = {(group.size, after[-1]), (prod(group.shape), prod(after))}
        for old, new in pairs:
            if old != new:
                news[old].add(new)
    return news


def _with_heads(config: ConfigChanges, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the same with the size of heads, where it follows from what changes, as it was."""
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    follows = {"hidden_size", "num_attention_heads"} & said.keys()
    if follows and "head_dim" not in config and isinstance(width, int) and heads:
        yield {**said, "head_dim": width // int(heads)}


def _is_width(key: str, value: object) -> bool:
    return type(value) is int and value > 0 and not any(part in key for part in _NO_WIDTHS)
