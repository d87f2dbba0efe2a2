"""Several models in one module, as a single file holds them: they do not read each other here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from rebasin_cli.models.subject import Example, Subject
from tests.library.single_files.stored import Layout, Place

Places = Callable[[Sequence[str]], Callable[[str], Place]]


@dataclass(frozen=True)
class Component:
    """One model of a single file.

    prefix: of its names there. places: all names of the library -> name -> place in the file.
    optional: whether files without it are used.
    """

    subject: Callable[[], Subject]
    prefix: str
    places: Places
    optional: bool = True


class Composed(nn.Module):
    """Models side by side; a call has keyword arguments for each, and returns all they return."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, model in models.items():
            setattr(self, name, model)
        self.parts = tuple(models)

    def forward(self, **arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)(**arguments[name])) for name in self.parts}


def _plain(answer: Any) -> Any:
    """Return the answer of a model without its class; hidden states are answers too."""
    return dict(answer) if hasattr(answer, "to_tuple") or isinstance(answer, dict) else answer


def composed(name: str, components: Mapping[str, Component]) -> Subject:
    """Return the models of a file as one, each under its name."""
    subjects = {n: part.subject() for n, part in components.items()}

    def build() -> nn.Module:
        return Composed({n: subject.build() for n, subject in subjects.items()}).eval()

    def examples(model: nn.Module) -> tuple[Example, ...]:
        made = {n: subject.examples(getattr(model, n)) for n, subject in subjects.items()}
        count = min(map(len, made.values()))
        return tuple(
            Example((), {n: dict(calls[k].kwargs) for n, calls in made.items()})
            for k in range(count)
        )

    versions = " ".join(subject.version for subject in subjects.values())
    return Subject(name, build, examples, version=versions)


def layout_of(components: Mapping[str, Component]) -> Layout:
    """Return where a file has the tensors of `composed`."""
    with torch.device("meta"):
        names = {n: tuple(c.subject().build().state_dict()) for n, c in components.items()}
    place = {n: part.places(names[n]) for n, part in components.items()}

    def within(name: str) -> Place:
        """Return the place of a tensor, or the path of a module, of a component."""
        part, _, inner = name.partition(".")
        if part not in components:
            return Place(name)
        found = place[part](inner)
        return replace(found, name=f"{components[part].prefix}{found.name}")

    places = {f"{n}.{tensor}": within(f"{n}.{tensor}") for n in names for tensor in names[n]}
    optional = tuple(part.prefix for part in components.values() if part.optional)
    return Layout(places, lambda name: within(name).name, optional)
