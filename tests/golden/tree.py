"""The help of every command as data: our words and choices, without what typer makes of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from rebasin_cli.cli import app

# Options that typer adds to the program, in its own words.
_FOREIGN = ("--install-completion", "--show-completion", "--help", "-h")


def command_tree() -> Any:
    """Return the program as typer makes it: the only place that knows where to find it."""
    return app.command_tree()


@cache
def helps() -> dict[str, str]:
    """Return the golden text of every command and group by its name, as `spec-check`."""
    return {"-".join(words): _text(command) for words, command in _commands(command_tree(), ())}


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words or ("rebasin",), command
    for name, child in getattr(command, "commands", {}).items():
        loaded = command.loaded(name) if name in command.entries else child
        yield from _commands(loaded, (*words, name))


def _text(command: Any) -> str:
    """Return JSON with one line for each parameter, and one for each line of the help."""
    shown = {
        "help": _lines(command.help),
        "epilog": _lines(command.epilog),
        "hidden": command.hidden,
        "without arguments shows the help": command.no_args_is_help,
        "panel": _panel(command),
        "commands": list(getattr(command, "commands", {})),
    }
    lines = [f"{json.dumps(key)}: {_dump(value)}" for key, value in shown.items()]
    parameters = [p for p in command.params if p.opts[0] not in _FOREIGN]
    rows = ",\n".join(f"  {json.dumps(_facts(p), ensure_ascii=False)}" for p in parameters)
    return "{\n" + ",\n".join([*lines, f'"parameters": [\n{rows}\n]']) + "\n}\n"


def _facts(parameter: Any) -> dict[str, Any]:
    """Return what a parameter says of itself; only what is not as usual."""
    option = parameter.opts[0].startswith("-")
    facts = {
        "flags": [*parameter.opts, *parameter.secondary_opts] if option else None,
        "metavar": parameter.metavar,
        "help": parameter.help,
        "default": _default(parameter),
        "panel": _panel(parameter),
        "required": parameter.required,
        "repeatable": getattr(parameter, "multiple", False),
        "number": parameter.nargs if parameter.nargs != 1 else None,
        "hidden": parameter.hidden,
        "flag": getattr(parameter, "is_flag", False),
        "counted": getattr(parameter, "count", False),
        "eager": parameter.is_eager,
        "variable": parameter.envvar,
        "min": _bound(parameter, "min"),
        "max": _bound(parameter, "max"),
    }
    return {key: value for key, value in facts.items() if value is not None and value is not False}


def _default(parameter: Any) -> str | None:
    """Return the default that the help shows; nothing for a flag that is not given."""
    value = parameter.default
    shown = parameter.show_default and value is not None and value is not False
    return str(getattr(value, "value", value)) if shown and "UNSET" not in repr(value) else None


def _bound(parameter: Any, name: str) -> Any:
    """Return a limit of a number, where this version of typer has it."""
    value = getattr(parameter, name, None)
    return getattr(getattr(parameter, "type", None), name, None) if value is None else value


def _panel(item: Any) -> str | None:
    panel = getattr(item, "rich_help_panel", None)
    return panel if isinstance(panel, str) else None  # typer has a word of its own for none


def _lines(text: str | None) -> list[str]:
    return inspect.cleandoc(text).splitlines() if text else []


def _dump(value: Any) -> str:
    indent = 2 if isinstance(value, list) and value else None
    return json.dumps(value, indent=indent, ensure_ascii=False)
