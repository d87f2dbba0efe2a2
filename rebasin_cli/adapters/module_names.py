"""What a model's modules call its tensors, where files have other names: adapters name modules."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import RebasinError
from rebasin_cli.models.module_weights import held_infos, held_ties
from rebasin_cli.models.subject import bare_model
from rebasin_cli.models.transformers.transformers_models import transformers_subject
from rebasin_cli.network.network import network_of
from rebasin_cli.options.selection import Selection
from rebasin_cli.tensors.blocks import Window


def module_names(model: Checkpoint) -> Mapping[str, str]:
    """Return the names that modules have for whole tensors of a model -> those of the model.

    As the class that its configuration names has them, all of them where some are tied; empty where
    it names none, or its library is not installed.
    """
    if "architectures" not in model.config or importlib.util.find_spec("transformers") is None:
        return {}
    try:
        subject = transformers_subject(str(model.path), model.config)
        windows = network_of(subject, model, Selection()).windows
    except RebasinError:
        return {}
    module = bare_model(subject)
    held, ties, present = held_infos(module), held_ties(module), set(model.names())
    stored = {
        ties.get(window.source, window.source): name
        for name, window in windows.items()
        if name in present and window == Window.whole(held[window.source])
    }
    own = ((name, ties.get(name, name)) for name in held)
    return {name: stored[first] for name, first in own if first in stored}
