"""Models that are wider: one to be as wide as, and one made wider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.checkpoint.source_checkpoint import SourceCheckpoint, module_checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import agree_on_tensors, open_models
from rebasin_cli.models.subject import without_memory
from rebasin_cli.network.network import subject_for
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.widening.growth import Growth
from rebasin_cli.widening.wider_checkpoint import WiderCheckpoint, as_wider
from rebasin_cli.widening.wider_settings import found_settings, settings_like


def open_wide(text: str, selection: Selection, model: Checkpoint) -> Checkpoint:
    """Return a model to be as wide as: a checkpoint, or the one that a config.json builds.

    Its names are brought to those of `model`.
    """
    path = named_path(text)
    if path.suffix != ".json" or path.name.endswith(".index.json"):
        (found,) = open_models([path], selection)
        return agree_on_tensors([model, found], Selection())[1]
    return agree_on_tensors([model, _built(path)], Selection())[1]


def _built(config: Path) -> SourceCheckpoint:
    """Return the tensors that a config.json of transformers stands for, without values."""
    if not config.is_file():
        raise UsageError(f"{config} does not exist", hint="--to GROUP=N, or a model")
    subject = subject_for(Tracing(target=f"hf:{config.parent}"))
    found = without_memory(subject)
    return module_checkpoint(subject.build() if found is None else found, str(config))


def wider_model(
    model: Checkpoint,
    bound: BoundSpec,
    growth: Growth,
    selection: Selection,
    *,
    like: Checkpoint | None = None,
    arguments: Mapping[str, object] | None = None,
    needed: bool = True,
) -> WiderCheckpoint:
    """Return a model with more units, and what its config.json says then, if it has one.

    like: a model as wide as that, whose config.json tells. arguments: what to say, if it is known.
    needed: whether it is written; if not, it may stay unknown.
    """
    if not model.config or arguments:
        return as_wider(model, growth, dict(arguments or {}) if model.config else {})
    if like is not None and like.config:
        return as_wider(model, growth, settings_like(model.config, like.config))
    try:
        return as_wider(model, growth, found_settings(model, bound, growth, selection))
    except UsageError:
        if needed:
            raise
        return as_wider(model, growth, {})
