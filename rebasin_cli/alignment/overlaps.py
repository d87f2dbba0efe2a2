"""`--common`: what models with another vocabulary, other classes or channels have in common.

Positions along an axis are those of the same number, or of the same token where both models have a
tokenizer and the axis is its vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import CheckpointError, Problem
from rebasin_cli.json_text import read_json
from rebasin_cli.merging.overlap import Overlap, Shared
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.spec_choice.unnamed import axis_groups

Vocabulary = Mapping[str, int]


def plan_overlaps(
    models: Sequence[Checkpoint], choice: Choice | None, *, wanted: bool
) -> tuple[Overlap, ...]:
    """Return what each model has in common with the first, where its shapes are others.

    Raises CheckpointError for an axis along which units move: there numbers mean nothing.
    """
    base = models[0]
    if not wanted:
        return tuple({} for _ in models)
    overlaps = tuple(_overlap(base, model) for model in models)
    problems = [
        Problem(
            f"{name} has {model.info(name).shape[axis]} units, expected {shared.size}",
            where=str(model.path),
            detail=f"its axis {axis} holds units of {group!r}",
            hint="--common is for vocabularies, classes and channels; widths have to agree",
        )
        for model, overlap in zip(models, overlaps, strict=True)
        for name, axes in overlap.items()
        for axis, shared in axes.items()
        for group in _groups_on(choice, name, axis)
    ]
    if problems:
        raise CheckpointError(*dict.fromkeys(problems))
    return overlaps


def _groups_on(choice: Choice | None, name: str, axis: int) -> set[str]:
    """Return the groups whose units lie on an axis of a tensor."""
    if choice is None:
        return set()
    found = (t for t in choice.bound.tensors if name in t.members)
    return {g for tensor in found for g, k in axis_groups(tensor) if k - tensor.stacked == axis}


def _overlap(base: Checkpoint, model: Checkpoint) -> Overlap:
    found: dict[str, dict[int, Shared]] = {}
    names = set(model.names())
    tokens = _tokens(base, model)
    for name in (name for name in base.names() if name in names):
        ours, theirs = base.info(name).shape, model.info(name).shape
        axes = {
            axis: _shared(a, b, tokens)
            for axis, (a, b) in enumerate(zip(ours, theirs, strict=True))
            if a != b
        }
        if axes:
            found[name] = axes
    return found


def _shared(ours: int, theirs: int, tokens: tuple[Vocabulary, Vocabulary] | None) -> Shared:
    """Return what two axes have in common: by token if they are as long as the vocabularies."""
    if tokens is not None and ours >= _length(tokens[0]) and theirs >= _length(tokens[1]):
        pairs = [(tokens[0][t], tokens[1][t]) for t in tokens[0] if t in tokens[1]]
        base, other = torch.tensor(sorted(pairs)).reshape(-1, 2).T
        return Shared(ours, base.contiguous(), other.contiguous())
    both = torch.arange(min(ours, theirs))
    return Shared(ours, both, both)


def _length(vocabulary: Vocabulary) -> int:
    return max(vocabulary.values(), default=-1) + 1


def _tokens(base: Checkpoint, model: Checkpoint) -> tuple[Vocabulary, Vocabulary] | None:
    """Return the vocabularies of two models, None unless both have a tokenizer."""
    ours, theirs = (_vocabulary(model.home) for model in (base, model))
    return (ours, theirs) if ours and theirs else None


def _vocabulary(folder: Path) -> Vocabulary:
    """Return the numbers of tokens that the tokenizer in a folder gives them, if there is one."""
    whole = _json(folder / "tokenizer.json")
    told = whole.get("model", {}).get("vocab") if isinstance(whole.get("model"), dict) else None
    if isinstance(told, list):  # of a unigram model: pairs of a token and its score
        told = {entry[0]: number for number, entry in enumerate(told)}
    if not isinstance(told, dict):
        told = _json(folder / "vocab.json") or _lines(folder / "vocab.txt")
    added = {
        entry["content"]: entry["id"]
        for entry in whole.get("added_tokens") or ()
        if isinstance(entry, dict) and isinstance(entry.get("content"), str)
    }
    return {t: n for t, n in {**told, **added}.items() if isinstance(n, int)}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = read_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _lines(path: Path) -> Vocabulary:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    return {token: number for number, token in enumerate(lines)}
