"""The names of a checkpoint's tensors, and the indices that exist at each place in them."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

INDEX = "(?:0|[1-9][0-9]{0,8})"
INDEX_IN_NAME = re.compile(rf"(?<![0-9]){INDEX}(?![0-9A-Za-z])")
_COMPARED = 1000  # names that differ in their indices only


class TensorNames:
    """Tensor names in checkpoint order.

    The place of an index is the text before it (`blocks.3.mlp.`); the indices that exist there
    are the decimals that follow this text in some name and end there.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.order = tuple(names)
        self._position = {name: k for k, name in enumerate(self.order)}
        found: defaultdict[str, set[int]] = defaultdict(set)
        for name in self.order:
            for index in INDEX_IN_NAME.finditer(name):
                found[name[: index.start()]].add(int(index[0]))
        self._at = {place: tuple(sorted(indices)) for place, indices in found.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._position

    def position(self, name: str) -> int:
        """Return where a name stands in the checkpoint."""
        return self._position[name]

    def at(self, place: str) -> tuple[int, ...]:
        """Return the indices that exist at a place, in ascending order."""
        return self._at.get(place, ())

    def end(self, place: str, template: str) -> int | None:
        """Return the index that `first`, `last` or `last.prev` means at a place."""
        return end_of(self.at(place), template)

    def close_to(self, pattern: str) -> str:
        """Return `did you mean ...?` for the name that looks most like a pattern, or nothing.

        Shapes of names are compared first, and names of that shape only then: this stays fast.
        """
        close = difflib.get_close_matches(skeleton(pattern), self._alike, n=1)
        if not close:
            return ""
        alike = self._alike[close[0]][:_COMPARED]
        (name,) = difflib.get_close_matches(pattern, alike, n=1, cutoff=0)
        return f"did you mean {name!r}?"

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.order:
            alike[skeleton(name)].append(name)
        return alike

    def neighbour(self, place: str, index: int, template: str) -> int | None:
        """Return the index that `i`, `i.prev` or `i.next.next` means where i is `index`."""
        indices = self.at(place)
        steps = template.split(".")[1:]
        if not steps:
            return index
        return _walk(indices, indices.index(index), steps) if index in indices else None


def skeleton(text: str) -> str:
    """Return a name or pattern with `#` for each of its indices."""
    return re.sub(r"\{[^{},]*\}|\[[^\[\]]*\]|[0-9]+", "#", text)


def end_of(indices: Sequence[int], template: str) -> int | None:
    """Return what `first`, `last` or `last.prev` means among sorted indices."""
    end, *steps = template.split(".")
    if not indices:
        return None
    return _walk(indices, 0 if end == "first" else len(indices) - 1, steps)


def _walk(indices: Sequence[int], position: int, steps: Sequence[str]) -> int | None:
    for step in steps:
        position += 1 if step == "next" else -1
    return indices[position] if 0 <= position < len(indices) else None
