"""Option groups as parameters of a command: the one piece between our dataclasses and Typer.

A group is a frozen dataclass whose fields say how they are given on the command line (`flag`).
A command names groups among its parameters; `with_options` makes a function of it that has a
parameter for each flag, which is what Typer understands, and that puts the groups together again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import partial, wraps
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.models import OptionInfo

from rebasin_cli.errors import look_up

FLAG = "flag"  # the key of a field's metadata
# The metavar of a flag whose values are these, and no others.
CLOSED = re.compile(r"[a-z0-9-]+(\|[a-z0-9-]+)+")
CHECK = "check_flags"  # what a group may have to look at its flags together, before they are parsed


@dataclass(frozen=True)
class Flag:
    """How a field is given: flags, help, the type that Typer reads, and what becomes of that.

    default: what Typer passes if the flag is not given. parse: from that to the field's value;
    raises typer.BadParameter. declared: further arguments of typer.Option.
    """

    names: tuple[str, ...]
    kind: Any
    default: Any
    parse: Callable[[Any], Any]
    declared: Mapping[str, Any]

    def parameter(self, name: str, help: str | None) -> inspect.Parameter:
        """Return the parameter that Typer sees, with another help if one is given."""
        option = typer.Option(*self.names, **{**self.declared, **({"help": help} if help else {})})
        annotated: Any = Annotated
        place = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(
            name, place, default=self.default, annotation=annotated[self.kind, option]
        )


@dataclass(frozen=True)
class Offered:
    """Which fields of a group a command has as flags, if not all; the others keep their defaults.

    help: of flags that mean something else in this command.
    """

    names: tuple[str, ...]
    help: Mapping[str, str]


def offer(*names: str, **help: str) -> Offered:
    """Return the mark on a group's annotation that says which of its flags a command has."""
    return Offered(names, help)


def _same(value: Any) -> Any:
    return value


def flag(
    *names: str,
    kind: Any,
    default: Any = None,
    parse: Callable[[Any], Any] = _same,
    **declared: Any,
) -> Any:
    """Return a dataclass field that is given as a flag; the arguments are those of `Flag`.

    Its default is what the flag's default becomes. Files that cannot be read are told by whoever
    reads them, with the exit code for that.
    """
    declared = {"readable": False, **declared}
    known = Flag(names, kind, default, parse, declared)
    return field(default_factory=partial(parse, default), metadata={FLAG: known})


def flags_in(panel: str) -> Callable[..., Any]:
    """Return `flag` for the fields that stand under one heading of the help."""
    return partial(flag, rich_help_panel=panel)


def option(panel: str | None = None) -> Callable[..., Any]:
    """Return what declares an option of one command alone, under a heading of the help."""
    return partial(typer.Option, rich_help_panel=panel, readable=False)


def argument(metavar: str, *, hidden: bool = False) -> Any:
    """Return what declares an argument; as of files, see `flag`."""
    return typer.Argument(metavar=metavar, hidden=hidden, readable=False)


def with_options(*first: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what makes the groups among a command's parameters into flags.

    first: parameters and fields that the help lists before the rest, in their order.
    """
    return partial(_expanded, first=first)


def _expanded(command: Callable[..., Any], first: tuple[str, ...]) -> Callable[..., Any]:
    signature = inspect.signature(command, eval_str=True)
    groups = {n: p for n, p in signature.parameters.items() if _group_of(p.annotation)}
    own = [p for name, p in signature.parameters.items() if name not in groups]
    flags = [flag for p in groups.values() for flag in _parameters(p.annotation)]
    order = {name: place for place, name in enumerate(first)}
    ordered = sorted(
        (p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *flags]),
        key=lambda p: order.get(p.name, len(order)),
    )

    closed = dict(filter(None, map(_choices, ordered)))

    @wraps(command)
    def with_flags(**given: Any) -> Any:
        for name, (flag_name, choices) in closed.items():
            _check_choice(flag_name, given[name], choices)
        values = {name: _made(p.annotation, given) for name, p in groups.items()}
        return command(**{p.name: given[p.name] for p in own}, **values)

    vars(with_flags)["__signature__"] = signature.replace(parameters=ordered)
    with_flags.__annotations__ = {p.name: p.annotation for p in ordered}
    return with_flags


def _choices(parameter: inspect.Parameter) -> tuple[str, tuple[str, list[str]]] | None:
    """Return name, flag and values of a parameter whose metavar is the list of its values."""
    for mark in get_args(parameter.annotation)[1:]:
        if isinstance(mark, OptionInfo) and CLOSED.fullmatch(mark.metavar or ""):
            name = str(mark.default)  # where Typer keeps the first name that is not read yet
            return parameter.name, (name, str(mark.metavar).split("|"))
    return None


def _check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    """Raise UsageError for a value that there is not: at once, before anything is imported."""
    if value is not None:
        look_up(f"value of {name}", value, dict.fromkeys(choices))


def _group_of(annotation: Any) -> type[Any] | None:
    """Return the option group that an annotation names, if it does."""
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def _flags(annotation: Any) -> Iterator[tuple[str, Flag, str | None]]:
    """Yield name, flag and own help of the fields of a group that a command offers."""
    marks = [mark for mark in get_args(annotation)[1:] if isinstance(mark, Offered)]
    names = {name for mark in marks for name in mark.names}
    help = {name: text for mark in marks for name, text in mark.help.items()}
    found: tuple[Field[Any], ...] = fields(_group_of(annotation) or annotation)
    for one in found:
        if FLAG in one.metadata and (not names or one.name in names):
            yield one.name, one.metadata[FLAG], help.get(one.name)


def _parameters(annotation: Any) -> Iterator[inspect.Parameter]:
    return (known.parameter(name, help) for name, known, help in _flags(annotation))


def _made(annotation: Any, given: Mapping[str, Any]) -> Any:
    """Return a group with the values of its flags."""
    group = _group_of(annotation) or annotation
    flags = {name: known for name, known, _ in _flags(annotation)}
    if hasattr(group, CHECK):
        getattr(group, CHECK)({name: given[name] for name in flags})
    return group(**{name: known.parse(given[name]) for name, known in flags.items()})
