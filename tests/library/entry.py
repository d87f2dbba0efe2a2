"""What the library of bundled specs is written from: models, and names that people can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rebasin_cli.models.libraries.diffusers_models import diffusers_subject
from rebasin_cli.models.libraries.optional_packages import optional
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.transformers.transformers_models import config_subject
from rebasin_cli.models.user.given_inputs import examples_of_shape
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from tests.library.single_files.stored import Layout

Fields = Mapping[str, Any]  # of a configuration


@dataclass(frozen=True)
class Model:
    """A model to trace, and what binds its spec: the content of config.json, or sizes by name.

    choices: what to say to the tracer. layout: what files store of it, where they do so under
    other names than its library.
    """

    subject: Callable[[], Subject]
    config: Callable[[], Mapping[str, Any]] = dict
    sizes: Mapping[str, int] = field(default_factory=dict)
    choices: Choices | None = None
    layout: Callable[[], Layout] | None = None


@dataclass(frozen=True)
class Entry:
    """One bundled spec.

    about: the comment on top. needs: the package that has the models.
    variants: the models from which it is written; what some of them lack is optional.
    larger: deeper and wider models, which the text has to fit as well.
    groups: expression for traced names of groups -> name in the spec.
    places: expression for tensors -> what the groups on their first axis are named after, where the
    traced names say little: `norm.PLACE`, `pair.PLACE` and `unit.PLACE` from outside in.
    sizes: name -> number or path in config.json. counted: expression for names of groups -> the
    size that they are declared with. measured: expression for names of groups -> traced size ->
    the size that they are declared with, the traced one if it is not there. No other group keeps
    a size, what binds finds it.
    held: expression for names of tensors -> the fixed group, or size, that their numbers become.
    required: expression for names that not all variants have, and that are not optional.
    alike: model_types in config.json whose code is that of a variant.
    spelled: text in patterns -> what replaces it. extra: entries for tensors that files may have
    and models lack. files: names as the library writes them, where the model has others.
    """

    name: str
    about: str
    description: str
    needs: str
    variants: tuple[Model, ...]
    larger: tuple[Model, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int | str] = field(default_factory=dict)
    counted: Mapping[str, int | str] = field(default_factory=dict)
    measured: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    required: str = ""
    alike: tuple[str, ...] = ()
    spelled: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    files: bool = False

    @property
    def model_types(self) -> tuple[str, ...]:
        """The model_types for which the spec says what may be rotated; none: models tell none."""
        told = [model.config().get("model_type") for model in self.variants]
        return tuple(dict.fromkeys((*filter(None, told), *self.alike)))


def hf(
    kind: str, architecture: str, /, sizes: Mapping[str, int] | None = None, **fields: Any
) -> Model:
    """Return a model of transformers, by model_type and class."""

    def config() -> Any:
        mapping = optional("transformers").CONFIG_MAPPING
        return mapping[kind](**{"architectures": [architecture], **fields})

    return Model(
        lambda: config_subject(architecture, config()), lambda: config().to_dict(), sizes or {}
    )


def called(
    target: str,
    /,
    sizes: Mapping[str, int] | None = None,
    shape: tuple[int, ...] | None = None,
    **arguments: Any,
) -> Model:
    """Return what `package.module:name` makes of arguments. shape: of its input, guessed else."""
    module, _, name = target.partition(":")
    examples = examples_of_shape(shape) if shape else None

    def found() -> Subject:
        made = getattr(optional(module), name)
        return subject_of(made, model_args=arguments, examples=examples)

    return Model(found, sizes=sizes or {})


def listed(
    target: str,
    /,
    sizes: Mapping[str, int] | None = None,
    shape: tuple[int, ...] | None = None,
    **arguments: Any,
) -> Model:
    """Return a model of a registry: `torchvision:NAME`, `timm:NAME`."""
    found = partial(subject_of_target, target, model_args=arguments, input_shape=shape)
    return Model(found, sizes=sizes or {})


def diffuser(**fields: Any) -> Model:
    """Return a model of diffusers by the fields of its config.json."""
    return Model(partial(diffusers_subject, fields["_class_name"], fields), lambda: fields)
