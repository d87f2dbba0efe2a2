"""What a PyTorch file holds beside the weights: more sets of them, and what belongs to the old."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.checkpoint.renamed import strip_wrappers
from rebasin_cli.checkpoint.torch_format.container import DEEPEST, tensors_in_state
from rebasin_cli.tensors import TensorInfo, TensorSource
from rebasin_cli.tensors.numbers import is_floating

KeyPath = tuple[Any, ...]  # the keys from the top of a file to one of its parts

# Numbers under the names of weights that are none: they follow the weights otherwise.
_NO_WEIGHTS = re.compile(r"optim|grad|moment|exp_avg|sched", re.IGNORECASE)
_PARALLEL = "module."


@dataclass(frozen=True)
class Part:
    """More tensors of the same model, as of an average of its weights.

    names: a name of the weights in the file -> the name of the same tensor in this part.
    """

    path: KeyPath
    names: Mapping[str, str]

    @property
    def key(self) -> str:
        return dotted_path(self.path)


@dataclass(frozen=True)
class Fate:
    """What became of the rest of a file, by dotted path.

    parts: written with the weights, and like them. stale: left as it was, though it belongs to
    the old weights. dropped: what was either in the file that the result is made like.
    """

    parts: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def without_parts(self) -> Fate:
        """The same where only the weights themselves are new."""
        return Fate((), (*self.parts, *self.stale), self.dropped)


@dataclass(frozen=True)
class Rest:
    """What a PyTorch file holds beside the weights.

    parts: more sets of weights. stale: paths of numbers that belong to the old weights, such as
    moments of an optimizer. harmless: paths of all else.
    """

    parts: tuple[Part, ...] = ()
    stale: tuple[KeyPath, ...] = ()
    harmless: tuple[KeyPath, ...] = ()

    @property
    def without_parts(self) -> Rest:
        """The same if the other sets of weights do not follow the weights: they are stale then."""
        return Rest((), (*(part.path for part in self.parts), *self.stale), self.harmless)


def dotted_path(path: KeyPath) -> str:
    """Return a path as `--key` takes it."""
    return ".".join(map(str, path))


def value_at(container: Any, path: KeyPath) -> Any:
    """Return what a path leads to."""
    for key in path:
        container = container[key]
    return container


def rest_of(container: Any, state: Mapping[str, Any]) -> Rest:
    """Return what a container holds beside the state dict in it."""
    weights = tensors_in_state(state)
    parts: list[Part] = []
    own: list[KeyPath] = []
    for path, value in _mappings(container, ()):
        if value is state:
            own.append(path)
        elif not _NO_WEIGHTS.search(dotted_path(path)) and (names := same_names(weights, value)):
            parts.append(Part(path, names))
    if not own:
        return Rest()
    known = {*own, *(part.path for part in parts)}
    shapes = {tuple(tensor.shape) for tensor in _large(weights).values()}
    others = list(_others(container, (), known))
    stale = tuple(path for path, value in others if _belongs(path, value, shapes))
    harmless = tuple(path for path, _ in others if path not in stale)
    return Rest(tuple(parts), stale, harmless)


def same_names(weights: Mapping[str, Tensor], part: Mapping[Any, Any]) -> dict[str, str]:
    """Return the name in a part of each tensor of the weights that it holds too.

    Empty unless all large tensors of the part are among the weights, in the same shapes. Names
    are compared without what wrappers add, and if that does not do without their first word.
    """
    other = tensors_in_state(part)
    if not (other and all(map(_is_plain, other.values()))):
        return {}
    a, b = _plain(weights), _plain(other)
    found = _shared(weights, a, other, b)
    if found:
        return found
    shorter = (_shared(weights, _shorter(a), other, b), _shared(weights, a, other, _shorter(b)))
    return next((names for names in shorter if _large(weights).keys() <= names.keys()), {})


def _shared(
    weights: Mapping[str, Tensor],
    seen: Mapping[str, str],
    other: Mapping[str, Tensor],
    there: Mapping[str, str],
) -> dict[str, str]:
    """Return the names of the tensors that both have, empty if a large one is no weight.

    seen, there: the names by which they are compared -> those in the file.
    """
    both = {
        name: stored
        for name, stored in there.items()
        if name in seen and other[stored].shape == weights[seen[name]].shape
    }
    large = {name for name, stored in there.items() if _is_large(other[stored])}
    if not large or not large <= both.keys():
        return {}
    return {seen[name]: stored for name, stored in both.items()}


def _mappings(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[Any, Any]]]:
    if isinstance(value, Mapping) and len(path) <= DEEPEST:
        yield path, value
        for key, item in value.items():
            yield from _mappings(item, (*path, key))


def _others(value: Any, path: KeyPath, known: Iterable[KeyPath]) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the largest pieces of a container that no known path leads to or through."""
    if path in known and not any(len(k) > len(path) and k[: len(path)] == path for k in known):
        return
    if any(k[: len(path)] == path for k in known):
        own = tensors_in_state(value) if path in known else {}
        for key, item in value.items():
            if key not in own:
                yield from _others(item, (*path, key), known)
    else:
        yield path, value


def _belongs(path: KeyPath, value: Any, shapes: set[tuple[int, ...]]) -> bool:
    """Return whether something holds numbers of the weights: in their shapes, or by its name.

    A vector by itself is none: weights of classes and histories have many lengths.
    """
    named = bool(_NO_WEIGHTS.search(dotted_path(path)))
    if isinstance(value, Tensor) and value.dim() < 2 and not named:
        return False
    return any(named or tuple(t.shape) in shapes for t in _tensors_in(value) if _is_large(t))


# Not `tensors.trees`: what a file holds may be nested without end, or hold itself.
def _tensors_in(value: Any, depth: int = DEEPEST) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(item, depth - 1)


def _large(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if _is_large(tensor)}


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)


def _is_large(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and is_floating(tensor.dtype)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names without what wrappers add -> the names; of two alike the first."""
    plain = {name: strip_wrappers(name) for name in tensors}
    counted = [plain[name] for name, tensor in tensors.items() if _is_large(tensor)]
    while counted and all(name.startswith(_PARALLEL) for name in counted):
        plain = {name: word.removeprefix(_PARALLEL) for name, word in plain.items()}
        counted = [name.removeprefix(_PARALLEL) for name in counted]
    return {word: name for name, word in reversed(plain.items())}


def _shorter(names: Mapping[str, str]) -> Mapping[str, str]:
    """Return names without their first word, if all that have several words share it."""
    heads = {name.partition(".")[0] for name in names if "." in name}
    if len(heads) != 1:
        return {}
    return {name.removeprefix(f"{min(heads)}."): stored for name, stored in names.items()}


class PartSource:
    """A part beside the weights as a TensorSource, under the names that those are seen with.

    stored: each name -> that in the part.
    """

    def __init__(self, part: TensorSource, stored: Mapping[str, str]) -> None:
        self._part, self.stored = part, stored

    def names(self) -> tuple[str, ...]:
        return tuple(self.stored)

    def info(self, name: str) -> TensorInfo:
        return replace(self._part.info(self.stored[name]), name=name)

    def load(self, name: str) -> Tensor:
        return self._part.load(self.stored[name])
