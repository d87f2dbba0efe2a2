"""What `tie_word_embeddings` in a config.json changes in a class besides its output head."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from torch import nn

from rebasin_cli.checkpoint.configuration import untied_settings
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.folding.tied_heads import Heads
from rebasin_cli.models.module_weights import held_ties
from rebasin_cli.models.subject import without_memory
from rebasin_cli.models.transformers.transformers_models import transformers_subject
from rebasin_cli.spec_choice.traced_fit import class_in_config
from rebasin_cli.wording import list_names

_SHOWN = 4  # names in a message


def with_embeddings(heads: Heads, models: Sequence[Checkpoint]) -> dict[str, str]:
    """Return heads, and after them the embeddings that a class of transformers unties with them.

    They have to be stored as well: the class would draw them at random otherwise (Pegasus, M2M100).
    Raises UsageError if `tie_word_embeddings` changes anything else in the class. Without the
    library the heads are returned as they are.
    """
    headers = headers_of(models)
    library, name = class_in_config(headers) or ("", "")
    if library != "transformers" or importlib.util.find_spec(library) is None:
        return dict(heads)
    configs = (headers.config, untied_settings(headers.config))
    before, after = (without_memory(transformers_subject(name, config)) for config in configs)
    if before is None or after is None:
        return dict(heads)
    others = _settings_changed(before, after)
    lost = _embeddings_lost(before, after)
    found = {alias: first for first in heads.values() for alias in _called(lost, first)}
    if others or (lost and not found):
        raise UsageError(
            f"the tie_word_embeddings of {name} says more than whether its head is the embedding",
            detail=f"it also changes {list_names([*others, *lost], _SHOWN)}",
            hint="--tie keep",
        )
    return {**heads, **found}


def _embeddings_lost(before: nn.Module, after: nn.Module) -> list[str]:
    """Return the embeddings that are one tensor before, and several after."""
    ties, still = held_ties(before), held_ties(after)
    lost = {name for alias in ties.keys() - still.keys() for name in (alias, ties[alias])}
    homes = {name: before.get_submodule(name.rpartition(".")[0]) for name in sorted(lost)}
    found = [name for name, home in homes.items() if isinstance(home, nn.Embedding)]
    return found if len(found) > 1 else []


def _called(names: Sequence[str], first: str) -> list[str]:
    """Return what a file calls tensors of a model, but for the one that it calls `first`."""
    same = next((name for name in names if name.endswith(first) or first.endswith(name)), "")
    before, lacking = first.removesuffix(same), same.removesuffix(first)
    others = [name for name in names if same and name != same]
    return [before + name.removeprefix(lacking) for name in others]


def _settings_changed(before: Any, after: Any) -> list[str]:
    told, other = (untied_settings(model.config.to_dict()) for model in (before, after))
    return [key for key, value in told.items() if other.get(key) != value]
