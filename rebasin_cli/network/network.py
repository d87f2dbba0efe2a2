"""The user's model, with what it is run on and judged by: planned from headers, then built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NoReturn

from torch import nn

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.models.module_weights import held_infos, held_ties
from rebasin_cli.models.subject import Example, Subject, bare_model
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.transformers.library_names import ignored_names, stored_windows
from rebasin_cli.models.user.batch_inputs import examples_of_batches
from rebasin_cli.models.user_functions import Loader, load_evaluation, load_loader
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.language_model import SequencePlan, plan_sequences
from rebasin_cli.network.names_in_files import ModelTensors, layout_of
from rebasin_cli.options.data import SAMPLED, Data
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.tensors import infos
from rebasin_cli.tensors.blocks import Window


@dataclass(frozen=True)
class Network:
    """A model, and where the tensors of a checkpoint belong in it, by name in the checkpoint.

    tracing: the options that name the model, from which it is found again once it was pickled;
    None: it cannot be.
    """

    subject: Subject
    windows: Mapping[str, Window]
    tracing: Tracing | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.tracing is None:
            raise TypeError(f"{self.subject.name} has no name by which it could be found again")
        return named_network, (self.tracing, self.windows)


def named_network(tracing: Tracing, windows: Mapping[str, Window]) -> Network:
    """Return the model that the options name, and where in it tensors are known to belong."""
    return Network(subject_for(tracing), windows, tracing)


def no_data() -> NoReturn:
    """Raise UsageError: there is no data."""
    raise UsageError("there is no data to run the model on", hint="--data file.py:batches")


@dataclass(frozen=True)
class UserCode:
    """All code of the user's that a command runs: the model, its data, how it is judged.

    data: how the data and the evaluation were named. loader: without data it refuses to be asked.
    evaluate: None where the user named none. sequences: what is drawn from the models, if data is.
    """

    network: Network
    data: Data
    loader: Loader = no_data
    evaluate: Callable[[Any], object] | None = None
    sequences: SequencePlan | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _named_code, (self.network, self.data, self.sequences)

    @property
    def fed(self) -> bool:
        """Whether there is data."""
        return self.loader is not no_data or self.sequences is not None


def plan_user_code(
    checkpoint: Checkpoint,
    selection: Selection,
    tracing: Tracing,
    data: Data,
    *,
    fed: bool = False,
    judged: bool = False,
) -> UserCode:
    """Return the model that --model names, as one of the checkpoint, its data and evaluation.

    fed, judged: whether the command cannot do without batches, without scores. Raises UsageError
    for what is missing, CheckpointError for another model's checkpoint.
    """
    if tracing.target is None:
        raise UsageError("a model has to be run", hint="--model file.py:Class builds it")
    if fed and data.data is None:
        no_data()
    if judged and data.data is None and data.evaluate is None:
        hint = "--data file.py:batches yields (inputs, targets); or --evaluate file.py:function"
        raise UsageError("nothing says how good a model is", hint=hint)
    network = plan_network(checkpoint, selection, tracing)
    return _named_code(network, data, _sequences(network.subject, tracing, data))


def _named_code(network: Network, data: Data, sequences: SequencePlan | None) -> UserCode:
    """Return the code that the user has named, loaded in this process."""
    return UserCode(
        network=network,
        data=data,
        loader=load_loader(data.own) if data.own else no_data,
        evaluate=load_evaluation(data.evaluate) if data.evaluate else None,
        sequences=sequences,
    )


def _sequences(subject: Subject, tracing: Tracing, data: Data) -> SequencePlan | None:
    """Return what is drawn from models of a class, if data is."""
    if data.data != SAMPLED:
        return None
    shaped = tracing.shape is not None or bool(tracing.inputs)
    return plan_sequences(subject, data.samples, shaped=shaped)


def plan_network(checkpoint: Checkpoint, selection: Selection, tracing: Tracing) -> Network:
    """Return the model that the options name, for checkpoints with the tensors of this one."""
    found = network_of(subject_for(tracing), checkpoint, selection)
    return replace(found, tracing=tracing)


def network_of(subject: Subject, checkpoint: Checkpoint, selection: Selection) -> Network:
    """Return a model, and where in it the tensors of a checkpoint belong."""
    model = bare_model(subject)
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
    wanted = [name for name in stored if selection.selects(name)]
    layout = layout_of(known, stored, wanted, str(checkpoint.path))
    return Network(subject, layout.windows)


def subject_for(tracing: Tracing) -> Subject:
    """Return the model that a target names, with the example inputs that the options give."""
    if tracing.shape is not None and tracing.inputs:
        raise UsageError("--input-shape and --input exclude each other")
    target = tracing.target or ""
    if tracing.data is not None and tracing.shape is None and not tracing.inputs:
        found = subject_of_target(target, model_args=tracing.arguments)
        first = Batches(load_loader(tracing.data), tracing.data, limit=1)
        return replace(found, examples=examples_of_batches(first))
    if not tracing.inputs:
        return subject_of_target(target, model_args=tracing.arguments, input_shape=tracing.shape)
    several = [
        subject_of_target(target, model_args=tracing.arguments, input_function=function)
        for function in tracing.inputs
    ]
    return replace(several[0], examples=_all_examples([one.examples for one in several]))


def _all_examples(
    functions: list[Callable[[nn.Module], tuple[Example, ...]]],
) -> Callable[[nn.Module], tuple[Example, ...]]:
    return lambda model: tuple(chain.from_iterable(f(model) for f in functions))
