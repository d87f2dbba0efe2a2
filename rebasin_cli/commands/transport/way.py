"""How a difference gets from one model to another: what all kinds of maps have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rebasin_cli.alignment.problem import MatchingProblem
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.transport.command import TransportRequest
from rebasin_cli.commands.transport.transported import CarriedFrame
from rebasin_cli.folding.tied_heads import Heads
from rebasin_cli.network.network import UserCode
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.spec_choice.choice import Choice

# The tuned model, its origin, the target.
ThreeModels = tuple[Checkpoint, Checkpoint, Checkpoint]


@dataclass(frozen=True)
class CarriedModels:
    """Models in one frame, and what is reported of the maps that brought them there.

    lines: for people. fields: of the event. facts: of the provenance. basin: in which the result
    lies; None: in none that is known. unmapped: tensors with a difference that no map tells of.
    """

    frame: CarriedFrame
    lines: tuple[str, ...]
    fields: Mapping[str, Any]
    basin: str | None
    unmapped: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


class TransportWay(Protocol):
    """Maps of one kind from an origin to a target, planned from headers."""

    @property
    def tuned(self) -> Checkpoint:
        """The model whose difference is carried."""

    @property
    def origin(self) -> Checkpoint:
        """The model that it was trained from."""

    @property
    def target(self) -> Checkpoint:
        """The model that gets the difference; the result is written like it."""

    @property
    def heads(self) -> Heads:
        """Output heads that are tensors of their own here, and were the embedding."""

    @property
    def machine(self) -> Machine:
        """On what maps are searched for."""

    @property
    def spec(self) -> str | None:
        """The name of the spec, where there is one."""

    def describe(self) -> dict[str, Any]:
        """Return what a plan says of it, as JSON values."""

    def bring(self, progress: Progress) -> CarriedModels:
        """Return target, tuned and origin in one frame."""


@dataclass(frozen=True)
class SearchedWay:
    """A way whose maps are searched for: of its problem's second model, the origin, to the first.

    code: what both are run on, if they are matched by what they do.
    """

    problem: MatchingProblem[Choice]
    code: UserCode | None
    request: TransportRequest

    @property
    def origin(self) -> Checkpoint:
        return self.problem.models[1]

    @property
    def target(self) -> Checkpoint:
        return self.problem.models[0]

    @property
    def machine(self) -> Machine:
        return self.problem.machine

    @property
    def spec(self) -> str:
        return self.problem.choice.name
