"""A model that can be run with the weights of checkpoints: decided from its class and headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.models import Subject, without_memory
from rebasin_cli.models.loader import Loader, evaluation, loader
from rebasin_cli.models.stored import ignored_names, stored_windows
from rebasin_cli.models.weights import held_infos, held_ties
from rebasin_cli.plan.layouts import ModelTensors, layout_of
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.tracing import subject_for
from rebasin_cli.tensors import Window, infos


@dataclass(frozen=True)
class Network:
    """A model, and where the tensors of a checkpoint belong in it, by name in the checkpoint."""

    subject: Subject
    windows: Mapping[str, Window]


@dataclass(frozen=True)
class Door:
    """All code of the user's that a command runs: the model, its data, how it is judged.

    data, evaluate: None where the user named none.
    """

    network: Network
    data: Loader | None
    evaluate: Callable[[Any], object] | None


def plan_door(checkpoint: Checkpoint, options: Options, *, data: bool, judged: bool) -> Door:
    """Return the model that --model names, as one of the checkpoint, its data and evaluation.

    data, judged: whether the command cannot do without batches, without scores. Raises UsageError
    for what is missing, CheckpointError for another model's checkpoint.
    """
    running, target = options.running, options.tracing.target
    if target is None:
        raise UsageError("a model has to be run", hint="--model file.py:Class builds it")
    if data and running.data is None:
        raise UsageError("there is no data to run the model on", hint="--data file.py:batches")
    if judged and running.data is None and running.evaluate is None:
        hint = "--data file.py:batches yields (inputs, targets); or --evaluate file.py:function"
        raise UsageError("nothing says how good a model is", hint=hint)
    return Door(
        network=plan_network(checkpoint, options),
        data=loader(running.data) if running.data else None,
        evaluate=evaluation(running.evaluate) if running.evaluate else None,
    )


def plan_network(checkpoint: Checkpoint, options: Options) -> Network:
    """Return the model that the options name, for checkpoints with the tensors of this one."""
    subject = subject_for(options.tracing)
    model = without_memory(subject)
    model = subject.build() if model is None else model
    held = held_infos(model)
    known = ModelTensors(
        name=subject.name,
        infos=held,
        ties=held_ties(model),
        needed=frozenset(name for name, info in held.items() if info.floating),
        windows=stored_windows(model),
        ignored=ignored_names(model),
    )
    stored = infos(checkpoint)
    wanted = [name for name in stored if options.selects(name)]
    layout = layout_of(known, stored, wanted, str(checkpoint.path))
    return Network(subject, layout.windows)
