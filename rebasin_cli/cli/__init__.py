"""The command line: reads it, has the command carried out, shows what comes of it.

Nothing here imports torch until a command runs, so that help and completion answer at once.
"""

from rebasin_cli.cli.app import main

__all__ = ["main"]
