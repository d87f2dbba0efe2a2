"""The command line: reads it, has the command carried out, shows what comes of it.

Nothing here imports torch until a command runs, so that help and completion answer at once.
"""

from __future__ import annotations

import atexit
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit: with the code of a signal, if one comes, from here on."""
    from rebasin_cli.cli.signals import ignore_signals, leave_on_signals

    leave_on_signals()
    atexit.register(ignore_signals)  # the first to be registered is the last to be called
    from rebasin_cli.cli.app import run_to_exit

    run_to_exit()
