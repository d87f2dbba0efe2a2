"""The command line: a command parses, makes a plan, has it run, and shows the outcomes.

Nothing here imports torch until a command runs, so that help and completion answer at once.
"""

from rebasin_cli.cli.app import app, main

__all__ = ["app", "main"]
