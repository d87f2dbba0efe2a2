"""The state dict among the objects of a PyTorch file."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from rebasin_cli.errors import CheckpointError, suggest
from rebasin_cli.wording import and_more, count, listing, shorten

# Where training programs put the weights, the most usual first.
PARTS = (
    "state_dict",
    "model",
    "model_state_dict",
    "ema",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "params_ema",
    "params",
    "module",
    "net",
    "network",
    "model_state",
    "weights",
)

# What the state of an optimizer of torch consists of.
OPTIMIZER = frozenset(("state", "param_groups"))

# What torch calls the entry of a module's get_extra_state.
EXTRA_STATE = "_extra_state"

# Optimizer states nest four deep; a container that holds itself would have no end.
DEEPEST = 6
SHOWN = 5  # parts that a hint names


class PartError(CheckpointError):
    """A file has no such part: another file of the same command may have it."""


def find_state_dict(container: Any, *, key: str | None, path: Path) -> MutableMapping[str, Any]:
    """Return the part that maps names to tensors: the one `key` names, or the first of PARTS.

    key: a dotted path. Raises CheckpointError listing the keys there are.
    """
    if key is not None:
        return _part(container, key, path)
    found = _search(container)
    if found is None:
        raise CheckpointError(
            "no state dict found",
            where=str(path),
            detail=f"it holds {_describe(container)}",
            hint=_keys_hint(container),
        )
    return found


def _keys_hint(container: Any) -> str:
    """Return how the weights are named where nothing finds them by itself."""
    if not isinstance(container, Mapping):
        return "save its state dict as a file of its own"
    if container.keys() >= OPTIMIZER:
        return "this is the state of an optimizer: `rebasin apply PERM FILE --base MODEL` moves it"
    found = {key: _descend(container, key) for key in _paths(container)}
    parts = [
        key for key, part in found.items() if isinstance(part, Mapping) and tensors_in_state(part)
    ]
    if not parts:
        return "nothing in it gives tensors their names: torch.save(model.state_dict(), FILE) does"
    told = " or ".join(shorten(parts, SHOWN, and_more))
    return f"name the part that holds the weights with --key: {told}"


def is_extra_state(name: object) -> bool:
    """Tell whether an entry is what a module keeps beside its parameters and buffers."""
    return isinstance(name, str) and name.rpartition(".")[2] == EXTRA_STATE


def tensors_in_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, leaving out its other entries."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _search(container: Any, depth: int = DEEPEST) -> MutableMapping[str, Any] | None:
    if not depth or not isinstance(container, MutableMapping):
        return None
    beside = (value for name, value in container.items() if not is_extra_state(name))
    if tensors_in_state(container) and not any(map(_holds_tensors, beside)):
        return container
    for part in PARTS:
        found = _search(container.get(part), depth - 1)
        if found is not None:
            return found
    return None


def _holds_tensors(value: Any, depth: int = DEEPEST) -> bool:
    return (depth > 0 and isinstance(value, Mapping)) and any(
        isinstance(item, Tensor) or _holds_tensors(item, depth - 1) for item in value.values()
    )


def _part(container: Any, key: str, path: Path) -> MutableMapping[str, Any]:
    found = _descend(container, key)
    if found is None:
        known = _paths(container)
        raise PartError(
            f"there is no part {key!r}",
            where=str(path),
            detail=f"it holds {_describe(container)}",
            hint=suggest(key, known),
        )
    if not isinstance(found, MutableMapping) or not tensors_in_state(found):
        raise CheckpointError(
            f"the part {key!r} is not a state dict",
            where=str(path),
            detail=f"it holds {_describe(found)}",
            hint=suggest(key, _paths(found, f"{key}.")),
        )
    return found


def _descend(container: Any, key: str) -> Any:
    """Follow a dotted path; a key that itself holds dots wins over a deeper path."""
    if not isinstance(container, Mapping):
        return None
    if key in container:
        return container[key]
    for dot in (i for i, letter in reversed(list(enumerate(key))) if letter == "."):
        found = _descend(container.get(key[:dot]), key[dot + 1 :])
        if found is not None:
            return found
    return None


def _paths(container: Any, prefix: str = "", depth: int = DEEPEST) -> list[str]:
    """Return the dotted paths of all parts that hold tensors."""
    if not depth or not isinstance(container, Mapping):
        return []
    parts = [(f"{prefix}{name}", part) for name, part in container.items() if _holds_tensors(part)]
    return [path for name, part in parts for path in (name, *_paths(part, f"{name}.", depth - 1))]


def _describe(container: Any) -> str:
    if not isinstance(container, Mapping):
        return f"a {type(container).__name__}, not named parts"
    shown = [f"{name} ({_kind(value)})" for name, value in islice(container.items(), 1000)]
    return listing(shown) or "nothing"


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        tensors = len(tensors_in_state(value))
        return count(tensors, "tensor") if tensors else count(len(value), "item")
    return type(value).__name__
