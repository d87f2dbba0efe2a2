"""What a pickle asks for, read from its instructions: nothing of it is imported or called."""

from __future__ import annotations

import _compat_pickle
import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

Filled = Literal["items", "elements"]

_MARK = object()
_FILLING: dict[str, tuple[int | None, Filled]] = {
    "SETITEM": (2, "items"),
    "SETITEMS": (None, "items"),
    "APPEND": (1, "elements"),
    "APPENDS": (None, "elements"),
}
_GETTING = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTTING = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_MAKING = {"REDUCE": 1, "NEWOBJ": 1, "NEWOBJ_EX": 2}


@dataclass(frozen=True)
class _Class:
    name: str


@dataclass(frozen=True)
class _Object:
    name: str


@dataclass
class PickledNames:
    """The classes and functions that a pickle names, as `module.name`.

    names: as they stand there -> as Python 3 calls them. filled: those whose objects get items
    like a dict, or elements like a list. whole: False if the instructions end early or make no
    sense.
    """

    names: dict[str, str] = field(default_factory=dict)
    filled: dict[str, Filled] = field(default_factory=dict)
    whole: bool = True


def survey(file: BinaryIO, pickles: int) -> PickledNames:
    """Return what the pickles at the start of a file ask for: at most so many."""
    found = PickledNames()
    try:
        for _ in range(pickles):
            _walk(file, found)
            here = file.tell()
            if not file.read(1):
                break
            file.seek(here)
    except (ValueError, LookupError, ArithmeticError, MemoryError):  # text of any length, it says
        found.whole = False
    return found


def _walk(pickled: BinaryIO, found: PickledNames) -> None:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _position in pickletools.genops(pickled):
        name = opcode.name
        if name in _PUTTING or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(str(argument))] = stack[-1]
        elif name in _GETTING:
            stack.append(memo[int(str(argument))])
        elif name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            stack.append(_named(name, argument, stack, found))
        elif name in _MAKING:
            del stack[-_MAKING[name] :]
            made = stack.pop()
            stack.append(_Object(made.name) if isinstance(made, _Class) else None)
        elif name in _FILLING:
            _fill(*_FILLING[name], stack, found)
        elif name == "BUILD":
            stack.pop()
        else:
            _other(opcode, argument, stack)


def _named(kind: str, argument: Any, stack: list[Any], found: PickledNames) -> _Class | _Object:
    """Return the class that an instruction names, or the object that an old one makes of it."""
    if kind == "STACK_GLOBAL":
        name, module = stack.pop(), stack.pop()
    else:
        module, _, name = str(argument).partition(" ")
    spelled = f"{module}.{name}"
    # Pickles of protocol 2 have the module names of Python 2.
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    full = f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
    found.names |= {spelled: full, full: full}
    if kind == "INST":
        _pop_marked(stack)
        return _Object(full)
    return _Class(full)


def _fill(count: int | None, how: Filled, stack: list[Any], found: PickledNames) -> None:
    if count is None:
        _pop_marked(stack)
    else:
        del stack[-count:]
    if isinstance(stack[-1], _Object):
        found.filled[stack[-1].name] = how


def _other(opcode: pickletools.OpcodeInfo, argument: object, stack: list[Any]) -> None:
    """Do to the stack what the table of instructions says."""
    if opcode.name == "MARK":
        stack.append(_MARK)
        return
    if pickletools.markobject in opcode.stack_before:
        _pop_marked(stack)
    elif opcode.stack_before:
        del stack[-len(opcode.stack_before) :]
    text = argument if isinstance(argument, str) else None
    stack.extend(text for _ in opcode.stack_after)


def _pop_marked(stack: list[Any]) -> None:
    while stack.pop() is not _MARK:
        pass
