"""How a merged model is to be corrected, and what was done to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rebasin_cli.activations.layer_statistics import Goal
from rebasin_cli.network.correctable_layers import Skipped
from rebasin_cli.progress import Progress, silent


def _every(name: str) -> bool:
    return True


@dataclass(frozen=True)
class CorrectionSettings:
    """How a model is corrected.

    method: a key of METHODS. sequential: a pass a layer. average: one target for all units of a
    layer. factor: multiplies the target deviations. selects: takes tensors by their names in the
    state dict; a layer is corrected if it takes one of those that would change.
    """

    method: str
    sequential: bool = False
    average: bool = False
    factor: float = 1.0
    selects: Callable[[str], bool] = _every
    progress: Progress = silent

    def goal(self, goal: Goal) -> Goal:
        """Return the goal of a layer as the options have it."""
        return (goal.averaged() if self.average else goal).times(self.factor)


@dataclass(frozen=True)
class Corrected:
    """A layer that was corrected, and the means over its units of their deviations.

    tensors: the names in the state dict of what has changed. before: of the merged model, behind
    the corrections of the layers before (of a norm: what its buffers said). after: what the
    correction makes of that. goal: the parents'. None where nothing was measured.
    """

    name: str
    how: str
    tensors: tuple[str, ...]
    before: float | None = None
    after: float | None = None
    goal: float | None = None


@dataclass(frozen=True)
class CorrectionReport:
    """What was done to which layers, in the order of a pass, and which were left as they are."""

    method: str
    corrected: tuple[Corrected, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names in the state dict of what has changed."""
        return tuple(name for layer in self.corrected for name in layer.tensors)
