"""What becomes of all that a PyTorch file holds beside the weights, decided from its keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.parts import Fate, KeyPath, dotted
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection


def plan_rest(
    layout: Layout,
    like: Checkpoint,
    models: Sequence[Checkpoint],
    selection: Selection,
    output: Output,
) -> tuple[Layout, Fate]:
    """Return the layout of a result made like one of some models, and what becomes of the rest.

    A part that all models have follows the weights. One that others lack is left out, since it
    would be that of one model; where there are no containers, all is.
    """
    rest = like.rest if selection.only_part is None else like.rest.without_parts
    keys = [part.key for part in rest.parts]
    if not layout.containers:
        return layout, Fate(dropped=(*keys, *map(dotted, rest.stale)))
    shared = [key for key in keys if all(_has(model, key, like) for model in models)]
    lone = [part.path for part in rest.parts if part.key not in shared]
    stale: Sequence[KeyPath] = () if output.drop_rest else rest.stale
    dropped = [*lone, *(rest.stale if output.drop_rest else ())]
    silent = rest.harmless if output.drop_rest else ()
    fate = Fate(tuple(shared), tuple(map(dotted, stale)), tuple(map(dotted, dropped)))
    return replace(layout, without=(*dropped, *silent)), fate


def _has(model: Checkpoint, key: str, like: Checkpoint) -> bool:
    """Return whether a model has all tensors of a part of another."""
    known = any(part.key == key for part in model.rest.parts)
    return known and set(like.part(key).names()) <= set(model.part(key).names())
