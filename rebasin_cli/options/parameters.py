"""What a command is asked, as a dataclass, and as parameters: the one piece between it and Typer.

A request is a frozen dataclass. Its fields say how they are given on the command line (`flag`,
`argument`), or are groups of such fields that commands share (`options_of`). It inherits none: what
it is asked, and which flags of a group it has, stands in one place. `with_options` makes of a
command that takes a request a function that has a parameter for each flag, which is what Typer
understands, and that puts the request together again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import partial, wraps
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from rebasin_cli.errors import look_up

FLAG, GROUP = "flag", "group"  # the keys of a field's metadata
# The metavar of a flag whose values are these, and no others.
CLOSED = re.compile(r"[a-z0-9-]+(\|[a-z0-9-]+)+")
# What stands for a value in the help where a flag does not say: nothing for one that takes none.
METAVARS: Mapping[Any, str] = {bool: "", bool | None: "", int: "N"}
CHECK = "check_flags"  # what a group may have to look at its flags together, before they are parsed
REQUIRED = inspect.Parameter.empty
GroupT = TypeVar("GroupT")


@dataclass(frozen=True)
class Flag:
    """How a field is given: flags, the type that Typer reads, and what becomes of that.

    names: none of an argument. kind: None: that of the field. default: what Typer passes if the
    flag is not given. parse: from that to the field's value; raises typer.BadParameter. declared:
    further arguments of typer.Option or typer.Argument.
    """

    names: tuple[str, ...]
    kind: Any
    default: Any
    parse: Callable[[Any], Any]
    declared: Mapping[str, Any]

    def parameter(self, name: str, kind: Any, help: str | None) -> inspect.Parameter:
        """Return the parameter that Typer sees. kind, help: of the field, of this command alone."""
        own_help = {"help": help} if help else {}
        metavar = METAVARS.get(self.kind or kind)
        declared = {"readable": False, "metavar": metavar, **self.declared, **own_help}
        mark = typer.Option(*self.names, **declared) if self.names else typer.Argument(**declared)
        annotated: Any = Annotated
        place, own = inspect.Parameter.KEYWORD_ONLY, annotated[self.kind or kind, mark]
        return inspect.Parameter(name, place, default=self.default, annotation=own)

    def value(self, given: Any) -> Any:
        """Return the field's value. Raises UsageError at once for one that is not listed."""
        listed = self.declared.get("metavar", "")
        if given is not None and CLOSED.fullmatch(listed):
            look_up(f"value of {self.names[0]}", given, dict.fromkeys(listed.split("|")))
        return self.parse(given)


@dataclass(frozen=True)
class Offered:
    """Which fields of a group a command has as flags, if not all; the others keep their defaults.

    help: of flags that mean something else in this command.
    """

    names: tuple[str, ...] = ()
    help: Mapping[str, str] = field(default_factory=dict)


def _unchanged(value: Any) -> Any:
    return value


def flag(
    *names: str,
    kind: Any = None,
    default: Any = None,
    parse: Callable[[Any], Any] = _unchanged,
    **declared: Any,
) -> Any:
    """Return a dataclass field that is given as a flag; the arguments are those of `Flag`.

    Its default is what the flag's default becomes. Files that cannot be read are told by whoever
    reads them, with the exit code for that.
    """
    known = {FLAG: Flag(names, kind, default, parse, declared)}
    if default is REQUIRED:
        return field(metadata=known)
    return field(default_factory=partial(parse, default), metadata=known)


def flags_in(panel: str) -> Callable[..., Any]:
    """Return `flag` for the fields that stand under one heading of the help."""
    return partial(flag, rich_help_panel=panel)


def argument(metavar: str, *, default: Any = REQUIRED, **more: Any) -> Any:
    """Return a dataclass field that is given by its place; the arguments are those of `Flag`."""
    return flag(default=default, metavar=metavar, **more)


def options_of(kind: type[GroupT], *names: str, **help: str) -> GroupT:
    """Return a dataclass field that is a group, of whose flags a command may have some only."""
    found: GroupT = field(default_factory=kind, metadata={GROUP: (kind, Offered(names, help))})
    return found


def offer(*names: str, **help: str) -> Offered:
    """Return the mark on a parameter of a command that is a group; arguments as of `options_of`."""
    return Offered(names, help)


def with_options(*first: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what makes the requests and groups among a command's parameters into flags.

    first: parameters and fields that the help lists before the rest, in their order.
    """
    return partial(_with_flags, first=first)


def _with_flags(command: Callable[..., Any], first: tuple[str, ...]) -> Callable[..., Any]:
    signature = inspect.signature(command, eval_str=True)
    parameters = signature.parameters.items()
    groups = {n: found for n, p in parameters if (found := _group_of(p.annotation))}
    own = [p for name, p in parameters if name not in groups]
    flags = [flag for found in groups.values() for flag in _parameters(*found)]
    order = {name: place for place, name in enumerate(first)}
    ordered = sorted(
        (p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *flags]),
        key=lambda p: order.get(p.name, len(order)),
    )

    @wraps(command)
    def with_flags(**given: Any) -> Any:
        values = {name: _build_group(*found, given) for name, found in groups.items()}
        return command(**{p.name: given[p.name] for p in own}, **values)

    vars(with_flags)["__signature__"] = signature.replace(parameters=ordered)
    with_flags.__annotations__ = {p.name: p.annotation for p in ordered}
    return with_flags


def _group_of(annotation: Any) -> tuple[type[Any], Offered] | None:
    """Return the request or group that an annotation names, and what is offered of it."""
    kind, *marks = get_args(annotation) or (annotation,)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None
    return kind, next((mark for mark in marks if isinstance(mark, Offered)), Offered())


def _parameters(kind: type[Any], offered: Offered) -> Iterator[inspect.Parameter]:
    """Yield what Typer sees of a request or group: its own flags, and those of its groups."""
    kinds = get_type_hints(kind)
    for name, known in _flags(kind, offered).items():
        yield known.parameter(name, kinds[name], offered.help.get(name))
    for inside in _groups(kind).values():
        yield from _parameters(*inside)


def _build_group(kind: type[Any], offered: Offered, given: Mapping[str, Any]) -> Any:
    """Return a request or group with the values of its flags."""
    flags = _flags(kind, offered)
    if hasattr(kind, CHECK):
        getattr(kind, CHECK)({name: given[name] for name in flags})
    own = {name: known.value(given[name]) for name, known in flags.items()}
    return kind(**own, **{name: _build_group(*one, given) for name, one in _groups(kind).items()})


def _flags(kind: type[Any], offered: Offered) -> dict[str, Flag]:
    wanted: tuple[Field[Any], ...] = fields(kind)
    chosen = [f for f in wanted if not offered.names or f.name in offered.names]
    return {f.name: f.metadata[FLAG] for f in chosen if FLAG in f.metadata}


def _groups(kind: type[Any]) -> dict[str, tuple[type[Any], Offered]]:
    return {f.name: f.metadata[GROUP] for f in fields(kind) if GROUP in f.metadata}
