"""Which tensors of a checkpoint are weights of layers, as far as their names tell."""

from __future__ import annotations

import re

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.options.selection import Selection

# Of tensors with two or more axes, what no layer multiplies its inputs by: tables of embeddings
# and positions, class tokens, norms over several axes, biases and masks. A file has only names.
_PLAIN = re.compile(r"norm|bias|mask|(^|[._])(cls|ln|bn)([._\d]|$)")


_TABLE = re.compile(r"emb|token|(^|[._])(wte|wpe|pos)([._]|$)")


_CONVOLUTION = 4  # axes from which a name with `embed` in it is a layer: patch_embed.proj


def weight_names(model: Checkpoint, selection: Selection) -> tuple[str, ...]:
    """Return the floating tensors of two or more axes that are weights of layers, each once.

    --only decides by itself what is a weight. Raises UsageError if nothing is left.
    """
    arrays = [n for n in model.names() if model.info(n).floating and len(model.info(n).shape) > 1]
    names = tuple(
        name
        for name in arrays
        if name not in model.ties
        and selection.selects(name)
        and (selection.only or all(_weight(each, model) for each in _called(name, model)))
    )
    if not any(model.info(name).numel for name in names):
        raise UsageError(
            "there is no weight to prune",
            hint="a weight is a floating tensor of two or more axes that is no table of "
            "embeddings; --only GLOB prunes those that it names",
        )
    return names


def _called(name: str, model: Checkpoint) -> list[str]:
    """Return all names of a tensor: of an output tied to a table, one says so."""
    return [name, *(alias for alias, first in model.ties.items() if first == name)]


def _weight(name: str, model: Checkpoint) -> bool:
    """Return whether a tensor is what a layer multiplies its inputs by, as far as names tell."""
    lower = name.lower()
    table = _TABLE.search(lower) and len(model.info(name).shape) < _CONVOLUTION
    return not (_PLAIN.search(lower) or table)
