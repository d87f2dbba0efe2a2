"""Models that are the user's own: a class, a function that builds one, or a finished model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.libraries.optional_packages import version_of
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.trial_run import CPU, failure_on, two_sizes
from rebasin_cli.models.user.construction import cause_of, check_arguments, construct
from rebasin_cli.models.user.guessed_inputs import guessed_families
from rebasin_cli.models.user.imports import fingerprint, import_folder, named_object
from rebasin_cli.models.user.uncached_imports import folder_importable
from rebasin_cli.tensors.trees import tensors_in

NOTHING: Mapping[str, object] = MappingProxyType({})


def subject_of(
    model_or_factory: nn.Module | Callable[..., nn.Module],
    *,
    model_args: Mapping[str, object] = NOTHING,
    examples: Callable[[nn.Module], tuple[Example, ...]] | None = None,
    name: str = "",
) -> Subject:
    """Return a model, or a class or function that makes one, with what it is fed.

    Without `examples` they are guessed from its layers by running it. UsageError if arguments are
    missing or unknown.
    """
    name = name or _name(model_or_factory)
    if isinstance(model_or_factory, nn.Module):
        hint = "it has to be copied: name a class or a function that builds it"
        build: Callable[[], nn.Module] = partial(
            construct, name, partial(_copy, model_or_factory), hint=hint
        )
        _refuse_arguments(name, model_args)
    else:
        check_arguments(name, model_or_factory, model_args)
        build = partial(construct, name, partial(model_or_factory, **model_args))
    source = fingerprint(name, model_or_factory)
    version = f"{version_of()} {source} {json.dumps(dict(model_args), sort_keys=True, default=str)}"
    return Subject(name, build, examples or partial(_guessed, name, build), version=version)


def own_subject(target: str, arguments: Mapping[str, object]) -> Subject:
    """Return what `file.py:name` or `pkg.mod:name` names; imports beside the file are found."""
    found = named_object(target)
    if not callable(found):  # a model can be called too
        raise UsageError(f"{target} is a {type(found).__name__}, not a model or a way to build one")
    subject = subject_of(found, model_args=arguments, name=target)
    folder = import_folder(target)

    def build() -> nn.Module:
        with folder_importable(folder):
            return subject.build()

    return Subject(target, build, partial(_guessed, target, build), version=subject.version)


def _copy(model: nn.Module) -> nn.Module:
    """Return a copy of a finished model, which stays as it is.

    Tensors that it computed and keeps (`weight` under the old weight_norm, an attention map, an
    auxiliary loss) are copied without what they were computed from, which torch cannot copy.
    """
    kept = [t for module in model.modules() for t in tensors_in(vars(module)) if not t.is_leaf]
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in kept})


def _refuse_arguments(name: str, arguments: Mapping[str, object]) -> None:
    """Raise UsageError for arguments to a model that is already built."""
    if arguments:
        raise UsageError(f"{name} is a finished model: there is nothing that could take arguments")


def _guessed(name: str, build: Callable[[], nn.Module], model: nn.Module) -> tuple[Example, ...]:
    """Return guessed inputs that the model accepts. Raises UsageError, with its complaint."""
    found = two_sizes(model, guessed_families(model))
    if not found and any(tensor.is_meta for tensor in model.parameters()):
        # Some models look at values and run only where tensors have any.
        with CPU:
            model = build()
        found = two_sizes(model, guessed_families(model))
    if not found:
        raise UsageError(
            f"no input was found that {name} accepts",
            detail=_refusal(model),
            hint="pass --input-shape 1,3,224,224 or --input file.py:function",
        )
    return found


def _refusal(model: nn.Module) -> str:
    """Return the first guess in words, and the model's error on it."""
    family = next(iter(guessed_families(model)), None)
    if family is None:
        return "it has no layer from which a guess could start"
    example = family.make((2, *family.shapes[0]))
    error = failure_on(model, example)
    return f"given a batch of shape {family.shapes[0]}: {cause_of(error)}" if error else ""


def _name(thing: object) -> str:
    """Return how a class, a function or a model is called where it was written."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{getattr(named, '__qualname__', type(thing).__name__)}"
