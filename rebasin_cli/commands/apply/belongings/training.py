"""The states of training in a PyTorch file, bound to the parameters that they belong to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rebasin_cli.adapters.factor_names import FactorEntry, Role
from rebasin_cli.adapters.followers import (
    FollowedAxes,
    Follower,
    Following,
    axes_in,
)
from rebasin_cli.adapters.weight_names import find_weights_of
from rebasin_cli.checkpoint.parts import Fate, KeyPath, dotted_path, value_at
from rebasin_cli.checkpoint.writing.shard_writer import PartJob
from rebasin_cli.commands.apply.belongings.numbering import Parameter, by_name, number_parameters
from rebasin_cli.commands.apply.belongings.owner import OwnerModel
from rebasin_cli.commands.apply.belongings.training_states import (
    Moment,
    TrainingState,
    training_states,
)
from rebasin_cli.commands.apply.movement import Reordering
from rebasin_cli.errors import PermutationError, Problem
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import RUNNING_STATISTICS, InMemory
from rebasin_cli.tensors.blocks import BoundTensor


@dataclass(frozen=True)
class Training:
    """What of a file follows the weights beside them.

    looked: dotted paths of the parts that were looked at. followed: of them, or of what is in them,
    what does. left: what does not. wrong: why, by name.
    """

    moments: tuple[Moment, ...] = ()
    tensors: tuple[BoundTensor, ...] = ()
    looked: tuple[str, ...] = ()
    followed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    wrong: Mapping[str, Problem] = field(default_factory=dict)
    permutations: Permutations = field(default_factory=dict)

    def fate(self, fate: Fate) -> Fate:
        """Return the fate of the rest of a file in which this follows the weights."""
        stale = (*(key for key in fate.stale if key not in self.looked), *self.left)
        return replace(fate, parts=(*fate.parts, *self.followed), stale=stale)

    @property
    def moved(self) -> int:
        """How many moments move."""
        groups = {name for name, found in self.permutations.items() if found.moved}
        return sum(len(tensor.members) for tensor in self.tensors if tensor.groups & groups)

    def jobs(self) -> list[PartJob]:
        """Return the permuted moments as jobs for the writer."""
        source = InMemory({m.name: m.tensor.detach() for m in self.moments})
        moved = Permuted(source, self.tensors, self.permutations)
        places: dict[KeyPath, list[Moment]] = {}
        for moment in self.moments:
            places.setdefault(moment.path, []).append(moment)
        return [
            PartJob(
                path,
                tuple(source.info(moment.name) for moment in moments),
                moved.load,
                {moment.name: moment.key for moment in moments},
            )
            for path, moments in places.items()
        ]


def bind_training(
    container: Any,
    parts: Sequence[KeyPath],
    owner: OwnerModel,
    movement: Reordering,
) -> Training:
    """Return what of some parts of a container follows a model's weights, tensor by tensor.

    parts: those that hold numbers of the old weights.
    """
    binder = _StateBinder(owner, movement)
    found = [
        (part, state)
        for part in parts
        for state in training_states(value_at(container, part), part)
    ]
    results = [(part, state.path, binder.bind(state)) for part, state in found]
    lost = {part for part, _, result in results if result.wrong}
    kept = [(path if part in lost else part, bool(r.wrong)) for part, path, r in results]
    return Training(
        tuple(moment for _, _, result in results for moment in result.moments),
        tuple(tensor for _, _, result in results for tensor in result.tensors),
        tuple(dict.fromkeys(map(dotted_path, parts))),
        _named(path for path, stays in kept if not stays),
        _named(path for path, stays in kept if stays),
        {name: why for _, _, result in results for name, why in result.wrong.items()},
        movement.permutations,
    )


def _named(paths: Iterable[KeyPath]) -> tuple[str, ...]:
    """Return paths as text, but that of the whole file, which needs no name."""
    return tuple(dict.fromkeys(dotted_path(path) for path in paths if path))


class _StateBinder:
    """The parameters of a model, for states of its training."""

    def __init__(self, owner: OwnerModel, movement: Reordering) -> None:
        self._owner, self._model = owner, owner.model
        self._bound = bound = movement.bound
        self._moved = {name for name, p in movement.permutations.items() if p.moved}
        self._following = Following(bound)
        self._places = {
            name: (tensor, position)
            for tensor in bound.tensors
            for position, name in enumerate(tensor.members)
        }

    def bind(self, state: TrainingState) -> Training:
        """Return the moments of a state with what they follow, or what is wrong with it."""
        if state.unknown:
            unknown = {name: Problem(f"{name!r}: {why}") for name, why in state.unknown.items()}
            return Training(wrong=unknown)
        try:
            weights = self._weights(state) if any(state.moments.values()) else {}
            lacking = next(
                (k for k, found in state.moments.items() if found and k not in weights), None
            )
            if lacking is not None:
                raise PermutationError(f"no group of its parameters has {lacking!r}")
        except PermutationError as error:
            name, problem = dotted_path(state.path) or "state", error.problems[0]
            return Training(wrong={name: replace(problem, what=f"{name!r}: {problem.what}")})
        moments = [(m, weights[key]) for key, found in state.moments.items() for m in found]
        return self._bound_moments(moments)

    def _bound_moments(self, moments: Sequence[tuple[Moment, str]]) -> Training:
        followers = [
            Follower(_entry(moment, weight), weight, tuple(moment.tensor.shape))
            for moment, weight in moments
        ]
        tensors, wrong = [], {}
        for name, result in self._following.bind(followers):
            if isinstance(result, BoundTensor):
                tensors.append(result)
            else:
                wrong[name] = result.problems[0]
        if wrong:
            return Training(wrong=wrong)
        return Training(tuple(moment for moment, _ in moments), tuple(tensors))

    def _weights(self, state: TrainingState) -> dict[Any, str]:
        """Return the parameter that each key of a state belongs to."""
        if by_name(state.names, state.groups) or not state.groups:
            return self._named(state)
        if not self._owner.ordered:
            raise PermutationError(
                "it numbers parameters, and the order of the model's is not known",
                hint="`rebasin apply --model TARGET` names its module, in Python base=net; or name "
                "a .pt of it with --base: a safetensors file has an order of its own",
            )
        return number_parameters(
            state.groups,
            list(self._parameters()),
            lambda slot, parameter: self._fits(state.moments.get(slot, ()), parameter.name),
            matter=lambda slot: bool(state.moments.get(slot)),
        )

    def _named(self, state: TrainingState) -> dict[Any, str]:
        keys = [key for key in state.moments if state.moments[key]]
        targets = {str(key): state.names.get(key, str(key)) for key in keys}
        entries = [FactorEntry(key, Role.WHOLE, target) for key, target in targets.items()]
        found = find_weights_of(entries, {*self._model.names(), *self._model.ties})
        if found.lacking:
            raise PermutationError(f"{found.lacking[0]!r} is no parameter of {self._model.path}")
        return {key: self._stored(found.weights[str(key)]) for key in keys}

    def _stored(self, name: str) -> str:
        return name if name in self._model.names() else self._model.ties.get(name, name)

    def _parameters(self) -> Iterator[Parameter]:
        """Yield what can be a parameter, in the order of the model."""
        if self._owner.parameters is not None:
            yield from (Parameter(name, self._movement(name)) for name in self._owner.parameters)
            return
        for name in self._model.names():
            if name in self._model.ties or not self._model.info(name).floating:
                continue
            buffer = name in self._bound.buffers or name.endswith(RUNNING_STATISTICS)
            certain = name in self._places and not buffer
            yield Parameter(name, self._movement(name), certain)

    def _movement(self, name: str) -> Hashable:
        """Return a key that is equal for tensors whose axes are permuted in the same way."""
        if name not in self._places:
            return self._model.info(name).shape
        tensor, position = self._places[name]
        if not tensor.groups & self._moved:
            return self._model.info(name).shape
        return (tensor.members, position) if tensor.stacked else (tensor.shape, tensor.blocks)

    def _fits(self, moments: Sequence[Moment], name: str) -> bool:
        shape = self._model.info(name).shape
        return all(_axes(moment, name, shape) is not None for moment in moments)


def _entry(moment: Moment, weight: str) -> FactorEntry:
    return FactorEntry(moment.name, moment.role, weight, moment.kind)


def _axes(moment: Moment, name: str, shape: Sequence[int]) -> FollowedAxes | None:
    follower = Follower(_entry(moment, name), name, tuple(moment.tensor.shape))
    found = axes_in(follower, shape, (0, 1))
    return found[0] if found else None
