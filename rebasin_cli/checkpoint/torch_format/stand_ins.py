"""What stands for classes that torch does not read, while a file is read and afterwards.

torch fills dicts and lists of its own kinds only. Subclasses of those in Python's library are read
as such a one, and made what they were afterwards. Objects of foreign classes are inert: whatever
the file does to them does nothing, and they are dropped afterwards.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, MutableMapping, Set
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

from torch import Size

from rebasin_cli.checkpoint.torch_format.opcodes import Filled, PickledNames
from rebasin_cli.errors import CheckpointError

ContainerT = TypeVar("ContainerT")
Allowed = tuple[Callable[..., Any], str]


class Ignored:
    """An object of a foreign class. It has no attributes and does nothing."""

    __slots__ = ()
    foreign = ""

    def __new__(cls, *arguments: object, **named: object) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __reduce__(self) -> NoReturn:
        raise CheckpointError(f"an object of {self.foreign} was ignored, and cannot be written")


class StandIns:
    """The stand-ins of one file, and what was made of them."""

    def __init__(self) -> None:
        self.dropped: dict[str, str] = {}
        self._made: dict[int, tuple[Any, Callable[[], Any]]] = {}
        self._foreign: dict[int, tuple[Any, str]] = {}
        self._settled: dict[int, tuple[Any, Any]] = {}

    def known(self) -> list[Allowed]:
        """Return what stands for the containers of Python's library."""
        return [
            (self._default_dict, "collections.defaultdict"),
            (self._deque, "collections.deque"),
        ]

    def foreign(self, asked: PickledNames, known: Set[str]) -> list[Allowed]:
        """Return an inert class for each name in a file that is no known class."""
        names = {spelled: n for spelled, n in asked.names.items() if not known & {n, spelled}}
        inert = {name: self._inert(name, asked.filled.get(name)) for name in names.values()}
        return [(inert[name], spelled) for spelled, name in names.items()]

    def settled(self, value: Any) -> Any:
        """Return what was read, with every stand-in replaced by its real value or dropped.

        What holds an ignored object but is no mapping is dropped with it. `dropped` says which
        entries went, as dotted paths, and the class that was the reason.
        """
        self._settled.clear()
        found = self._settle(value, "")
        return None if isinstance(found, Ignored) else found

    def _default_dict(self, *arguments: Any) -> OrderedDict[Any, Any]:
        # A factory may be the class itself, for which its stand-in was read.
        real = [defaultdict if a == self._default_dict else a for a in arguments[:1]]
        return self._record(OrderedDict(), lambda: defaultdict(*real))

    def _deque(self, elements: Iterable[Any] = (), size: int | None = None) -> list[Any]:
        return self._record(list(elements), lambda: deque(maxlen=size))

    def _record(self, made: ContainerT, real: Callable[[], Any]) -> ContainerT:
        self._made[id(made)] = made, real
        return made

    def _inert(self, name: str, filled: Filled | None) -> Callable[..., Any]:
        """Return the class that stands for a foreign one."""
        inert = type("Inert", (Ignored,), {"__slots__": (), "foreign": name})
        if filled is None:
            self._foreign[id(inert)] = inert, name
            return inert
        container = OrderedDict if filled == "items" else list

        def make(kind: type, *arguments: object) -> Any:
            made: Any = container()
            self._foreign[id(made)] = made, name
            return made

        kind = type("Filled", (), {"__slots__": (), "__new__": make})
        self._foreign[id(kind)] = kind, name
        return kind

    def _settle(self, value: Any, path: str) -> Any:
        """Return the real value, or the ignored object inside it that is why it is dropped."""
        key = id(value)
        if key in self._settled:
            return self._settled[key][1]
        if isinstance(value, Ignored):
            return value
        if key in self._foreign:
            return type("Inert", (Ignored,), {"foreign": self._foreign[key][1]})()
        real = self._made[key][1]() if key in self._made else value
        self._settled[key] = value, real
        self._attributes(value, path)
        if isinstance(value, MutableMapping):
            self._entries(value, real, path)
            return real
        if isinstance(value, (list, tuple, set, frozenset)) and not isinstance(value, Size):
            self._settled[key] = value, self._elements(value, real, path)
        return self._settled[key][1]

    def _attributes(self, value: Any, path: str) -> None:
        if isinstance(value, (OrderedDict, Namespace, SimpleNamespace)):
            self._entries(vars(value), vars(value), path)

    def _entries(
        self, found: MutableMapping[Any, Any], real: MutableMapping[Any, Any], path: str
    ) -> None:
        """Put the entries of a mapping into the one it stands for, perhaps itself."""
        for name, value in list(found.items()):
            place = f"{path}.{name}" if path else str(name)
            key, new = self._settle(name, place), self._settle(value, place)
            if _gone(key) or _gone(new):
                self.dropped[place] = (key if _gone(key) else new).foreign
                real.pop(name, None)
            else:
                real[name] = new

    def _elements(self, found: Any, real: Any, path: str) -> Any:
        new = [self._settle(value, path) for value in found]
        gone = next(filter(_gone, new), None)
        if gone is not None:
            return gone
        if isinstance(real, list):
            real[:] = new
        elif isinstance(real, deque):
            real.extend(new)
        elif any(a is not b for a, b in zip(found, new, strict=True)):
            return type(found)(new)
        return real


def _gone(value: object) -> bool:
    return isinstance(value, Ignored)
