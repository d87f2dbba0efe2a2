"""Names cut at their indices, and what is known of these.

`h.3.norm1.w` is the pieces `h.`, `.norm`, `.w` with the values (3, 1): every number counts as an
index until `cover` decides which of them vary like one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rebasin_cli.spec.compression.forms import Form
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME, TensorNames

AXIS_OF_NAMES = re.compile(r"\[[A-Za-z_][A-Za-z0-9_]*\]")
ATTACHED = 3  # values that make an index of a number that is not a component of its own
VARIABLES = "ijkmnpqrs"  # of templates; no l and no o, which look like numbers
_STEPS = (".prev", ".next", ".prev.prev", ".next.next")

ItemForms = Mapping[str, tuple[Form, tuple[int, ...]]]


@dataclass(frozen=True)
class Item:
    """The name of a tensor cut at its indices, and the form of its entry.

    For each index, near: what it and its neighbours (`.prev`, ...) are; last: whether it is the
    last at its place; end: whether it is the first or the last; count: how many there are.
    form: None if no rule may match the name. slots: the indices taken out of the form.
    """

    pieces: tuple[str, ...]
    values: tuple[int, ...]
    near: tuple[Mapping[str, int], ...]
    last: tuple[bool, ...]
    end: tuple[bool, ...]
    count: tuple[int, ...]
    position: int
    form: Form | None
    slots: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The name."""
        values = (*map(str, self.values), "")
        return "".join(piece + value for piece, value in zip(self.pieces, values, strict=True))


def families_of(
    said: ItemForms, known: Iterable[str], *, names: TensorNames | None = None
) -> list[list[Item]]:
    """Return names in families that differ in indices only, those in which some have a meaning.

    said: name -> form and slots. known: all names. names: where neighbours are looked up; groups
    have none.
    """
    found: defaultdict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in _items(said, known, names):
        found[item.pieces].append(item)
    return [family for family in found.values() if any(item.form for item in family)]


def _items(said: ItemForms, known: Iterable[str], names: TensorNames | None) -> Iterator[Item]:
    """Yield items for names with a meaning, and for known ones that have none."""
    order = dict.fromkeys([*said, *known])
    for position, name in enumerate(order):
        form, slots = said.get(name, (None, ()))
        yield _item(name, position, names, form, slots)


def _item(
    name: str, position: int, names: TensorNames | None, form: Form | None, slots: tuple[int, ...]
) -> Item:
    """names: None for groups, whose indices have no neighbours."""
    hidden = AXIS_OF_NAMES.sub(lambda axis: "_" * len(axis[0]), name)
    found = list(INDEX_IN_NAME.finditer(hidden))
    starts = [0, *(index.end() for index in found)]
    ends = [*(index.start() for index in found), len(name)]
    pieces = tuple(name[a:b] for a, b in zip(starts, ends, strict=True))
    values = tuple(int(index[0]) for index in found)
    if names is None:
        near = tuple({"": value} for value in values)
        no = (False,) * len(values)
        return Item(pieces, values, near, no, no, (0,) * len(values), position, form, slots)
    # The first member of a stack is the one whose places count.
    places = [AXIS_OF_NAMES.sub("0", name[: index.start()]) for index in found]
    member = AXIS_OF_NAMES.sub("0", name)
    pairs = list(zip(places, values, strict=True))
    last = tuple(names.end(place, "last") == value for place, value in pairs)
    first = (names.end(place, "first") == value for place, value in pairs)
    end = tuple(a or b for a, b in zip(last, first, strict=True))
    count = tuple(len(names.at(place)) for place in places)
    near = tuple(_near(names, place, value) for place, value in pairs)
    position = names.position(member) if member in names else position
    return Item(pieces, values, near, last, end, count, position, form, slots)


def _near(names: TensorNames, place: str, value: int) -> dict[str, int]:
    found = {step: names.neighbour(place, value, f"i{step}") for step in _STEPS}
    return {"": value} | {step: index for step, index in found.items() if index is not None}
