"""What a configuration says with the one word that unties a head, beside that."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from torch import nn

from rebasin_cli.checkpoint.configuration import untied_settings
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.models.module_weights import held_ties
from rebasin_cli.models.subject import without_memory
from rebasin_cli.models.transformers.transformers_models import transformers_subject
from rebasin_cli.spec_choice.traced import class_in_config
from rebasin_cli.wording import list_names

_SHOWN = 4  # names in a message


def check_untying(models: Sequence[Checkpoint]) -> None:
    """Raise UsageError where a class of transformers would do more than untie its head.

    It may tie other embeddings by the same word (Pegasus, MBart: they would be loaded at random),
    or scale its outputs where the head is tied (T5). Nothing is known without the library.
    """
    headers = headers_of(models)
    library, name = class_in_config(headers) or ("", "")
    if library != "transformers" or importlib.util.find_spec(library) is None:
        return
    configs = (headers.config, untied_settings(headers.config))
    before, after = (without_memory(transformers_subject(name, config)) for config in configs)
    if before is None or after is None:
        return
    others = [*_embeddings_lost(before, after), *_settings_changed(before, after)]
    if others:
        raise UsageError(
            f"the tie_word_embeddings of {name} says more than whether its head is the embedding",
            detail=f"it also changes {list_names(others, _SHOWN)}",
            hint="--tie keep",
        )


def _embeddings_lost(before: nn.Module, after: nn.Module) -> list[str]:
    lost = [name for name in held_ties(before) if name not in held_ties(after)]
    homes = {name: before.get_submodule(name.rpartition(".")[0]) for name in lost}
    return [name for name, home in homes.items() if isinstance(home, nn.Embedding)]


def _settings_changed(before: Any, after: Any) -> list[str]:
    told, other = (untied_settings(model.config.to_dict()) for model in (before, after))
    return [key for key, value in told.items() if other.get(key) != value]
