"""Specs: loaded by name, chosen as the commands choose them, or traced from a model object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import Any, TypeAlias

from torch import Tensor, nn

from rebasin_cli.alignment.function_check import USUAL, FunctionCheck
from rebasin_cli.alignment.functions import keeps_function
from rebasin_cli.alignment.problem import MatchingProblem, problem_of
from rebasin_cli.api.keywords import Groups, Options, texts
from rebasin_cli.api.running import library_verb, running_models
from rebasin_cli.api.tensors_in import Model
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import RebasinError, UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.models.subject import Example, Subject, without_memory
from rebasin_cli.models.transformers.library_names import ignored_names, stored_windows
from rebasin_cli.models.transformers.transformers_models import finished_subject
from rebasin_cli.network.names_in_files import layout_of
from rebasin_cli.network.network import network_of, subject_for
from rebasin_cli.options.machine import plan_machine
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.library import load_spec as load_named
from rebasin_cli.spec_choice.bundled import NoFitError
from rebasin_cli.spec_choice.choice import Choice, GivenSpec
from rebasin_cli.spec_choice.target_tracing import check_validated, trace_subject, trace_target
from rebasin_cli.spec_choice.trace_format import TracedModel
from rebasin_cli.spec_choice.traced_fit import spec_for, traced_tensors
from rebasin_cli.spec_choice.unnamed import is_excused
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.model_trace import Trace

NetworkLike: TypeAlias = "nn.Module | Callable[..., nn.Module] | str"
SpecLike: TypeAlias = "Spec | str | PathLike[str] | None"


class MatchOptions(Options, total=False):
    """Keywords of the verbs that match models: see `match`."""

    spec: SpecLike
    model: NetworkLike | None
    inputs: object


@dataclass(frozen=True)
class SpecSource:
    """Where a spec comes from: what the verbs take as `spec`, `model` and `inputs`.

    spec: of the language, its name or its file. model: a network that is traced for it: a module,
    what builds one, or a TARGET of the command line. inputs: see `trace`.
    """

    spec: SpecLike = None
    model: NetworkLike | None = None
    inputs: object = None

    def __post_init__(self) -> None:
        if not (self.spec is None or isinstance(self.spec, Spec | str | PathLike)):
            raise TypeError(
                f"spec: a {type(self.spec).__name__} is no spec: expected one of rb.load_spec or "
                "rb.trace, its name or its file"
            )

    @property
    def named(self) -> str | None:
        """The name or the file of the spec, if it has one."""
        return fspath(self.spec) if isinstance(self.spec, str | PathLike) else None


@library_verb
def load_spec(name: str | PathLike[str]) -> Spec:
    """Return the bundled spec of a name, or the spec in a file.

    Raises SpecError for a text that is no valid spec, UsageError for an unknown name, RebasinError
    for a file that cannot be read.
    """
    return load_named(fspath(name))


@library_verb
def trace(
    model: NetworkLike,
    inputs: object = None,
    *,
    outputs: str | Sequence[str] = (),
    free_outputs: bool = False,
    buffers: str | Sequence[str] = (),
) -> Trace:
    """Return the symmetry of a network: which units may change places without changing outputs.

    The network is run once and every operator is recorded. The spec that follows is proved by
    running the network again with all groups of units in random order.

    model: a module (it is copied), a function that builds one, or a TARGET of the command line.
    inputs: one call of the model: a tensor, a tuple of arguments, or a mapping of keywords; or a
    list of such calls, which are all recorded. None: guessed.
    outputs: names of the outputs that must stay the same. None named: those that a user looks at.
    free_outputs: units of the outputs may change places, as in a backbone without its head.
    buffers: globs over names of buffers that move like parameters.

    `.spec` of the result is the spec, `.proof` says how it was proved, `.fixed` lists what does not
    move and why. Traces of TARGETs are kept in the cache of the command line, unless
    REBASIN_NO_CACHE is set. Raises UsageError for a model that does not run, TypeError for an
    argument that is no model or no input.
    """
    choices = Choices(texts(outputs), free_outputs, texts(buffers))
    with running_models():
        if isinstance(model, str) and inputs is None:
            asked = Tracing(
                target=model,
                outputs=choices.outputs,
                free_outputs=choices.free_outputs,
                buffers=choices.buffers,
            )
            return trace_target(asked).trace
        return _trace(subject_given(model, inputs), choices, inputs)


def _trace(found: Subject, choices: Choices, inputs: object) -> Trace:
    """Return the trace of what is no target."""
    return trace_subject(
        found,
        choices,
        recorded=len(inputs) if isinstance(inputs, list) else 1,
        fed="its inputs",
        hint="inputs=: a tensor, a tuple of arguments or a mapping of keywords",
    )


def subject_given(model: NetworkLike, inputs: object = None) -> Subject:
    """Return a network as what is traced; inputs: see `trace`."""
    if isinstance(model, str):
        found = subject_for(Tracing(target=model))
    elif callable(model):
        found = finished_subject(_bare(model))
    else:
        raise TypeError(
            f"model: a {type(model).__name__} is no network: expected a module, what builds one, "
            "or a target such as 'net.py:Net'"
        )
    if isinstance(model, nn.Module) and any(t.is_meta for t in model.parameters()):
        raise UsageError(
            f"{found.name} is on the device 'meta': it cannot be run",
            hint="model= takes what builds it as well: a class or a function",
        )
    return found if inputs is None else replace(found, examples=_examples(inputs))


def _bare(model: nn.Module | Callable[..., nn.Module]) -> nn.Module | Callable[..., nn.Module]:
    """Return a module without torch.compile and data parallelism around it."""
    while True:
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = getattr(model, "module" if parallel else "_orig_mod", None)
        if not (isinstance(model, nn.Module) and isinstance(inner, nn.Module)):
            return model
        model = inner


def _examples(inputs: object) -> Callable[[nn.Module], tuple[Example, ...]]:
    """Return what gives a model its examples."""
    if callable(inputs) and not isinstance(inputs, Tensor):
        return inputs
    each = inputs if isinstance(inputs, list) else [inputs]
    if not each:
        raise UsageError("inputs: there is no call of the model in the list")
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


def matching_problem(
    models: Sequence[Checkpoint],
    given: Sequence[Model],
    source: SpecSource,
    groups: Groups,
    *,
    done: str | None = None,
    rotated: bool = False,
) -> MatchingProblem[Choice]:
    """Return opened models as a matching problem under the spec that a source names.

    given: the models as the caller gave them. If the source names neither a spec nor a model, a
    module among them is traced where there are inputs, or where no bundled spec fits its tensors
    and its function. done, rotated: see `open_problem`.
    """
    machine = plan_machine(groups.computing, groups.search)
    asked = replace(groups, tracing=_tracing_options(source))
    module = next((model for model in given if isinstance(model, nn.Module)), None)
    untold = source.spec is None and source.model is None
    with running_models():
        if module is None or not untold:
            named = _given_spec(source, models, groups.selection)
            return problem_of(models, asked, machine, given=named, done=done, rotated=rotated)
        if source.inputs is None:
            with suppress(NoFitError):
                found = problem_of(models, asked, machine, done=done, rotated=rotated)
                held = models[next(k for k, model in enumerate(given) if model is module)]
                if _suits(found.choice, module, held, groups.selection):
                    return found
        named = _traced_spec(module, source.inputs, models, groups.selection)
        return problem_of(models, asked, machine, given=named, done=done, rotated=rotated)


def _suits(choice: Choice, module: nn.Module, held: Checkpoint, selection: Selection) -> bool:
    """Return whether a spec that fits the tensors of a module keeps what it computes.

    A residual network may have the names and shapes of a chain of layers. Large modules are not
    run, nor those for which no input can be guessed.
    """
    if sum(parameter.numel() for parameter in module.parameters()) > USUAL:
        return True
    try:
        network = network_of(subject_given(module), held, selection)
    except RebasinError:
        return True
    return keeps_function(FunctionCheck(network, required=False), held, choice.bound)


def _tracing_options(source: SpecSource) -> Tracing:
    target = source.model if isinstance(source.model, str) and source.inputs is None else None
    return Tracing(target=target)


def _given_spec(
    source: SpecSource, models: Sequence[Checkpoint], selection: Selection
) -> GivenSpec | None:
    """Return the spec that is at hand as an object, or has to be traced from one."""
    if source.spec is not None and source.model is not None:
        raise UsageError("spec and model exclude each other")
    if source.inputs is not None and source.model is None:
        hint = "model=Net, model=net or model='net.py:Net'"
        raise UsageError("inputs: there is no network to run on them", hint=hint)
    if isinstance(source.spec, Spec):
        return GivenSpec(f"given: {source.spec.name or 'without a name'}", source.spec)
    if source.model is None or (isinstance(source.model, str) and source.inputs is None):
        return None
    return _traced_spec(source.model, source.inputs, models, selection)


def _traced_spec(
    model: NetworkLike, inputs: Any, models: Sequence[Checkpoint], selection: Selection
) -> GivenSpec:
    """Return the spec of a network in the names of some models of it.

    Raises CheckpointError if they are not of it, SpecError for a trace that was not proved.
    """
    subject = subject_given(model, inputs)
    found = _trace(subject, Choices(), inputs)
    check_validated(found, Tracing(target=subject.name))
    empty = without_memory(subject)
    windows = stored_windows(empty) if empty is not None else {}
    ignored = ignored_names(empty) if empty is not None else ()
    known = TracedModel(subject.name, found, found.spec, windows, ignored)
    headers = headers_of(models)
    wanted = [name for name in headers.infos if not is_excused(name, selection)]
    layout = layout_of(traced_tensors(known), headers.infos, wanted, headers.where)
    fitting = replace(known, windows={})  # its spec is in its own names
    return GivenSpec(
        f"traced from {subject.name}{layout.note}",
        spec_for(headers, fitting, layout),
        complete=True,
    )
