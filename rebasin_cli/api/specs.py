"""Specs: loaded, chosen as the commands do, or traced from a model object and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import Any, TypeAlias

from torch import Tensor, nn

from rebasin_cli.alignment.problem import MatchingProblem, problem_of
from rebasin_cli.api.keywords import Groups
from rebasin_cli.api.tensors_in import Model
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.network.network import subject_for
from rebasin_cli.options.machine import plan_machine
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.library import load_spec as load_named
from rebasin_cli.spec_choice.bundled import NoFitError
from rebasin_cli.spec_choice.choice import Choice, GivenSpec
from rebasin_cli.spec_choice.traced_model import check_validated, trace_target
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.trace import Trace
from rebasin_cli.tracer.trace import trace as trace_subject

Network: TypeAlias = "nn.Module | Callable[..., nn.Module] | str"
SpecLike: TypeAlias = "Spec | str | PathLike[str] | None"


@dataclass(frozen=True)
class SpecSource:
    """Where a spec comes from: what the verbs take as `spec`, `model` and `inputs`.

    spec: of the language, its name or its file. model: a network that is traced for it: a module,
    what builds one, or a TARGET of the command line. inputs: see `trace`.
    """

    spec: SpecLike = None
    model: Network | None = None
    inputs: object = None

    @property
    def named(self) -> str | None:
        """The name or the file of the spec, if it has one."""
        return fspath(self.spec) if isinstance(self.spec, str | PathLike) else None


def load_spec(name: str | PathLike[str]) -> Spec:
    """Return a bundled spec by its name, or that of a file. Raises SpecError, UsageError."""
    return load_named(fspath(name))


def trace(
    model: Network,
    inputs: object = None,
    *,
    outputs: Sequence[str] = (),
    free_outputs: bool = False,
    buffers: Sequence[str] = (),
) -> Trace:
    """Return the symmetry of a network, proved by running it with its units permuted.

    model: a module, which is copied, what builds one, or a TARGET of the command line. inputs: a
    tensor, a tuple of arguments, a mapping of keywords, or a list of these, all of which count;
    None: guessed. The others are as of `rebasin spec trace`. `.spec` is the spec, `.proof` says how
    it was proved, `.fixed` what does not move and why. Raises UsageError for what does not run.
    """
    if isinstance(model, str):
        if inputs is not None:
            found = replace(subject_for(Tracing(target=model)), examples=_examples(inputs))
            return trace_subject(found, Choices(tuple(outputs), free_outputs, tuple(buffers)))
        asked = Tracing(
            target=model,
            outputs=tuple(outputs),
            free_outputs=free_outputs,
            buffers=tuple(buffers),
        )
        return trace_target(asked).trace
    choices = Choices(tuple(outputs), free_outputs, tuple(buffers))
    count = len(inputs) if isinstance(inputs, list) else 1
    return trace_subject(_subject(model, inputs), choices, recorded=count)


def _subject(model: nn.Module | Callable[..., nn.Module], inputs: object) -> Subject:
    found = subject_of(model)
    return found if inputs is None else replace(found, examples=_examples(inputs))


def _examples(inputs: object) -> Callable[[nn.Module], tuple[Example, ...]]:
    """Return what gives a model its examples."""
    if callable(inputs) and not isinstance(inputs, Tensor):
        return inputs
    each = inputs if isinstance(inputs, list) else [inputs]
    examples = tuple(map(_example, each))
    return lambda model: examples


def _example(value: object) -> Example:
    if isinstance(value, Example):
        return value
    if isinstance(value, Tensor):
        return Example((value.detach().cpu(),))
    if isinstance(value, tuple):
        return Example(value)
    if isinstance(value, Mapping):
        return Example((), dict(value))
    raise TypeError(
        f"inputs: a {type(value).__name__} is no call of a model: expected a tensor, a tuple of "
        "arguments or a mapping of keywords"
    )


def problem(
    models: Sequence[Checkpoint],
    given: Sequence[Model],
    source: SpecSource,
    groups: Groups,
    *,
    done: str | None = None,
) -> MatchingProblem[Choice]:
    """Return models as a matching problem, under the spec that a source tells.

    given: the models as they came: where nothing tells and no bundled spec fits, or where there
    are inputs, a module among them is traced. done: see `open_problem`.
    """
    machine = plan_machine(groups.computing, groups.search)
    asked = replace(groups, tracing=_tracing(source))
    module = next((model for model in given if isinstance(model, nn.Module)), None)
    untold = source.spec is None and source.model is None
    if module is None or not untold:
        return problem_of(models, asked, machine, given=_given(source), done=done)
    if source.inputs is None:
        with suppress(NoFitError):
            return problem_of(models, asked, machine, done=done)
    return problem_of(models, asked, machine, given=_traced(module, source.inputs), done=done)


def _tracing(source: SpecSource) -> Tracing:
    target = source.model if isinstance(source.model, str) and source.inputs is None else None
    return Tracing(target=target)


def _given(source: SpecSource) -> GivenSpec | None:
    """Return the spec that is at hand as an object, or has to be traced from one."""
    if source.spec is not None and source.model is not None:
        raise UsageError("spec and model exclude each other")
    if isinstance(source.spec, Spec):
        return GivenSpec(f"given: {source.spec.name or 'without a name'}", source.spec)
    if source.model is None or (isinstance(source.model, str) and source.inputs is None):
        return None
    return _traced(source.model, source.inputs)


def _traced(model: Network, inputs: Any) -> GivenSpec:
    name = model if isinstance(model, str) else type(model).__name__
    found = trace(model, inputs)
    check_validated(found, Tracing(target=name))
    return GivenSpec(f"traced from {name}", found.spec, complete=True)
