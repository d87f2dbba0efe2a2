"""Members of a list of modules that did not run, and what of another member stands in their place.

An input takes some experts, the head of one task, one of several branches. What it leaves out
reads and writes the units that all of them do, in other runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass

from torch import nn

from rebasin_cli.tracer.recording.record import Record, Value

# A Sequential is none: its members read one another.
LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Twin:
    """A tensor that the run used, at the place of one that it did not use in another member.

    member: the prefix of the member that it belongs to, as `e.3.`.
    """

    name: str
    member: str


def list_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the lists in a model, with a dot at the end, inner ones first."""
    found = [f"{name}." for name, module in model.named_modules() if isinstance(module, LISTS)]
    return tuple(sorted(found, key=len, reverse=True))


def idle_members(record: Record, used: Container[Value]) -> dict[str, list[Twin]]:
    """Return the twins of each unused tensor, in the nearest list of modules that has any."""
    found: defaultdict[tuple[object, ...], list[Twin]] = defaultdict(list)
    idle = [name for name, value in record.tensors.items() if value not in used]
    for name, value in record.tensors.items() if idle else ():
        if value in used:
            for place, member in _places(record, name):
                found[place].append(Twin(name, member))
    known = {n: [found[p] for p, _ in _places(record, n) if p in found] for n in idle}
    return {name: twins[0] for name, twins in known.items() if twins}


def _places(record: Record, name: str) -> Iterator[tuple[tuple[object, ...], str]]:
    """Yield for each list around a tensor its place inside a member, and the member's prefix."""
    for place in record.lists:
        if name.startswith(place):
            member, _, inside = name[len(place) :].partition(".")
            yield (place, inside, record.tensors[name].shape), f"{place}{member}."
