"""Which parameter of a model each number of an optimizer stands for, by order and shape.

The parameters of each group stand in the order of the model, whose groups are dealt out among them:
all in one, or weights that decay and the rest. Every way to deal that fits the shapes is followed
at once; what counts is not which parameter a number is, but how it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rebasin_cli.errors import PermutationError

MOST = 200_000  # states of dealing that are followed
State = tuple[int, ...]  # how many of each group are dealt


@dataclass(frozen=True)
class Parameter:
    """A tensor of a model. movement: equal for those that move alike. certain: it is no buffer."""

    name: str
    movement: Hashable
    certain: bool = True


def number_parameters(
    groups: Sequence[Sequence[Any]],
    parameters: Sequence[Parameter],
    fits: Callable[[Any, Parameter], bool],
    *,
    matter: Callable[[Any], bool],
) -> dict[Any, str]:
    """Return a parameter for each number, that it is or that moves as it does.

    fits: whether a number's moments are in the shape of a parameter. matter: whether it has any.
    Raises PermutationError if there is none, or if moments could move in several ways.
    """
    count = sum(map(len, groups))
    frozen = count < sum(parameter.certain for parameter in parameters)
    found = _movements(groups, parameters, fits, frozen=frozen)
    if found is None:
        raise PermutationError(
            "its numbers are not those of the model's parameters",
            detail=f"it has {count} parameters, the model {len(parameters)}; in no order do their "
            "shapes fit",
        )
    doubtful = [slot for slot, movements in found.items() if len(movements) > 1 and matter(slot)]
    if doubtful:
        slot = min(doubtful, key=str)
        names = sorted(found[slot].values())
        raise PermutationError(
            f"its parameter {slot} could be {names[0]!r} or {names[1]!r}",
            hint="torch.optim writes names if it is given model.named_parameters()",
        )
    return {slot: next(iter(movements.values())) for slot, movements in found.items()}


def _movements(
    groups: Sequence[Sequence[Any]],
    parameters: Sequence[Parameter],
    fits: Callable[[Any, Parameter], bool],
    *,
    frozen: bool,
) -> dict[Any, dict[Hashable, str]] | None:
    """Return for each number the parameters that it can be, one of each movement.

    Backwards through all that can have been dealt, from what deals all numbers; None: nothing does.
    """
    layers = _deal(groups, parameters, fits, frozen=frozen)
    alive = {tuple(map(len, groups))}
    found: dict[Any, dict[Hashable, str]] = {}
    for parameter, layer in zip(reversed(parameters), reversed(layers[:-1]), strict=True):
        before: set[State] = set()
        for state in layer:
            for slot, after in _steps(state, groups, parameter, fits, frozen=frozen):
                if after in alive:
                    before.add(state)
                    if slot is not None:
                        found.setdefault(slot, {})[parameter.movement] = parameter.name
        alive = before
    return found if alive else None


def _deal(
    groups: Sequence[Sequence[Any]],
    parameters: Sequence[Parameter],
    fits: Callable[[Any, Parameter], bool],
    *,
    frozen: bool,
) -> list[set[State]]:
    """Return what can have been dealt before each parameter."""
    layers: list[set[State]] = [{(0,) * len(groups)}]
    total = 1
    for parameter in parameters:
        steps = (_steps(s, groups, parameter, fits, frozen=frozen) for s in layers[-1])
        layers.append({after for found in steps for _, after in found})
        total += len(layers[-1])
        if total > MOST:
            raise PermutationError(
                "its parameters fit the model in too many ways to be told apart",
                hint="torch.optim writes names if it is given model.named_parameters()",
            )
    return layers


def _steps(
    state: State,
    groups: Sequence[Sequence[Any]],
    parameter: Parameter,
    fits: Callable[[Any, Parameter], bool],
    *,
    frozen: bool,
) -> list[tuple[Any | None, State]]:
    """Return what a parameter can be, a number or None, and what is dealt then."""
    found: list[tuple[Any | None, State]] = []
    if frozen or not parameter.certain:
        found.append((None, state))
    for k, group in enumerate(groups):
        if state[k] < len(group) and fits(group[state[k]], parameter):
            found.append((group[state[k]], (*state[:k], state[k] + 1, *state[k + 1 :])))
    return found


def by_name(names: Mapping[Any, str], groups: Sequence[Sequence[Any]]) -> bool:
    """Return whether every number of an optimizer has a name."""
    return bool(names) and all(number in names for group in groups for number in group)
