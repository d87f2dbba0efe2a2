"""What a PyTorch file holds of a training run: states of optimizers, and lists by number.

torch's optimizers number parameters in the order of their groups: `{"state": {0: {"exp_avg": ...}},
"param_groups": [{"params": [0, 1, ...]}]}`, with names where they were given some (`param_names`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rebasin_cli.adapters.factor_names import Role
from rebasin_cli.checkpoint.parts import KeyPath, dotted_path
from rebasin_cli.checkpoint.torch_format.container import DEEPEST

_STATE, _GROUPS = "state", "param_groups"
# Of Adam and its kin one number for each of the parameter; of Adafactor (torch; transformers) and
# CAME one for each row and one for each column. In turn; the first that fits counts.
_KEYS: Sequence[tuple[str, Role]] = (
    (r"row_var|\w+_row", Role.OVER_COLUMNS),
    (r"col_var|\w+_col", Role.OVER_ROWS),
    (r"", Role.WHOLE),
    (r"exp_avg|exp_avg_sq|max_exp_avg_sq|exp_inf|momentum_buffer|square_avg|grad_avg", Role.WHOLE),
    (r"acc_delta|sum|prev|prev_grad|step_size|step_sizes|ax|mu_product|variance", Role.WHOLE),
    (r"exp_avg_slow|exp_avg_diff|prior_grad|neg_pre_grad|s|z|p0", Role.WHOLE),
)
_CODED = re.compile(r"state[12]|absmax\d*|qmap\d*|new_max\d|max\d|unorm_vec")


@dataclass(frozen=True)
class Moment:
    """A tensor of the state of a parameter. path: of what holds it; key: in there.

    kind: equal for those of all parameters that move together where these change places.
    """

    path: KeyPath
    key: Any
    tensor: Tensor
    role: Role
    kind: str = ""

    @property
    def name(self) -> str:
        return dotted_path((*self.path, self.key))


@dataclass(frozen=True)
class TrainingState:
    """The moments of parameters. groups: the parameters by number, in their order.

    names: of parameters, where the file tells them. unknown: what is no moment, with the reason.
    """

    path: KeyPath
    groups: tuple[tuple[Any, ...], ...]
    moments: Mapping[Any, tuple[Moment, ...]]
    names: Mapping[Any, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)


def training_states(value: Any, path: KeyPath) -> Iterator[TrainingState]:
    """Yield the training states in a part of a file; what is not understood is an unknown one."""
    if len(path) > DEEPEST:
        return
    if isinstance(value, Mapping):
        yield from _in_mapping(value, path)
    elif isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
        if any(map(_is_large, value)):
            moments = {k: (Moment(path, k, t, Role.WHOLE),) for k, t in enumerate(value)}
            yield TrainingState(path, (tuple(moments),), moments)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from training_states(item, (*path, number))
    elif _is_large(value):
        unknown = {dotted_path(path): "what it belongs to is not known"}
        yield TrainingState(path, (), {}, unknown=unknown)


def _in_mapping(value: Mapping[Any, Any], path: KeyPath) -> Iterator[TrainingState]:
    if _is_optimizer(value):
        yield _optimizer(value, path)
        value = {key: item for key, item in value.items() if key != _STATE}
    tensors = {key: item for key, item in value.items() if _is_large(item)}
    if tensors and all(isinstance(key, str) for key in tensors):
        moments = {key: (Moment(path, key, t, Role.WHOLE),) for key, t in tensors.items()}
        yield TrainingState(path, (), moments, {key: key for key in tensors})
    for key, item in value.items():
        if key not in tensors:
            yield from training_states(item, (*path, key))


def _is_optimizer(value: Mapping[Any, Any]) -> bool:
    state = value.get(_STATE)
    if not isinstance(state, Mapping) or not all(isinstance(v, Mapping) for v in state.values()):
        return False
    return _GROUPS in value or (bool(state) and all(isinstance(key, int) for key in state))


def _optimizer(value: Mapping[Any, Any], path: KeyPath) -> TrainingState:
    state = value[_STATE]
    groups, names = _groups(value.get(_GROUPS), state)
    moments: dict[Any, tuple[Moment, ...]] = {}
    unknown: dict[str, str] = {}
    for number, entries in state.items():
        place = (*path, _STATE, number)
        moments[number] = tuple(_moments(entries, place, unknown))
    return TrainingState(path, groups, moments, names, unknown)


def _groups(
    groups: Any, state: Mapping[Any, Any]
) -> tuple[tuple[tuple[Any, ...], ...], dict[Any, str]]:
    """Return the numbers of the parameters in each group, and the names that are told."""
    names: dict[Any, str] = {key: key for key in state if isinstance(key, str)}
    if not isinstance(groups, list):
        return (tuple(sorted(state)),), names
    found = []
    for group in groups:
        numbers = group.get("params") if isinstance(group, Mapping) else None
        told = group.get("param_names") if isinstance(group, Mapping) else None
        found.append(tuple(n for n in _as_list(numbers) if isinstance(n, int | str)))
        if isinstance(told, list) and len(told) == len(found[-1]):
            names |= zip(found[-1], map(str, told), strict=True)
    return tuple(found), names


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _moments(
    entries: Mapping[Any, Any], place: KeyPath, unknown: dict[str, str]
) -> Iterator[Moment]:
    """Yield the moments of a parameter, and note what is none."""
    coded = any(re.fullmatch(r"(absmax|qmap)\d*", str(key)) for key in entries)
    same = [t.shape for key, t in entries.items() if _is_large(t) and _role(key) is Role.WHOLE]
    for key, tensor in entries.items():
        role = _role(key)
        if coded and _CODED.fullmatch(str(key)):
            unknown[dotted_path((*place, key))] = (
                "8-bit moments, whose scales are of runs of codes and not of units"
            )
        elif not _is_large(tensor):
            if isinstance(tensor, list | tuple | Mapping) and any(True for _ in _large_in(tensor)):
                unknown[dotted_path((*place, key))] = "what it belongs to is not known"
        elif role or tensor.shape in same:
            yield Moment(place, key, tensor, role or Role.WHOLE, str(key))
        else:
            unknown[dotted_path((*place, key))] = "no optimizer is known that keeps it"


def _role(key: Any) -> Role | None:
    return next((role for names, role in _KEYS if re.fullmatch(names, str(key))), None)


def _large_in(value: Any, depth: int = DEEPEST) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield from (value,) if _is_large(value) else ()
    elif depth and isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _large_in(item, depth - 1)


def _is_large(value: Any) -> bool:
    """Return whether something holds numbers of units; a counter does not, nor a generator."""
    return isinstance(value, Tensor) and value.numel() > 1 and value.is_floating_point()
