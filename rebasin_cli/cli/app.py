"""The command `rebasin` and its options; each group of commands has a module of its own."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Annotated, NoReturn

import typer

from rebasin_cli import __version__
from rebasin_cli.cli import compare, mix, move, specs

EPILOG = """
Examples:

    rebasin align a.safetensors b.safetensors

    rebasin merge run-*/model.safetensors -o soup.safetensors

    rebasin align a.pt b.pt | rebasin lerp --steps 99

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 the check said no, 2 usage,
3 bad input, 4 machine, 5 some items failed.
"""

app = typer.Typer(
    name="rebasin",
    help="Align, merge and interpolate checkpoints modulo permutation symmetry.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    parts = [f"python {platform.python_version()}"]
    parts += [f"{name} {metadata.version(name)}" for name in ("torch", "safetensors")]
    print(f"rebasin {__version__} ({', '.join(parts)})")
    raise typer.Exit


@app.callback()
def rebasin(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print versions."),
    ] = False,
) -> None:
    """Align, merge and interpolate checkpoints modulo permutation symmetry."""


for module in (move, mix, compare):
    for function in module.COMMANDS:
        app.command(function.__name__)(function)
app.add_typer(specs.app, name="spec")


def main() -> NoReturn:
    """Run the command line and exit."""
    app()
    raise SystemExit(0)
