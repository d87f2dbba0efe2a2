"""The command line: reads it, has the command carried out, shows what comes of it.

Nothing here imports torch until a command runs, so that help and completion answer at once.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit: with the code of a signal, if one comes, from here on."""
    from rebasin_cli.cli.signals import leave_on_signals

    leave_on_signals()
    from rebasin_cli.cli.app import run_to_exit

    run_to_exit()
