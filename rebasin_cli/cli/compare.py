"""The commands that look and compare: verify, diff, inspect."""

from __future__ import annotations

from rebasin_cli.commands.diff.command import diff
from rebasin_cli.commands.inspect.command import inspect
from rebasin_cli.commands.verify.command import verify

COMMANDS = (verify, diff, inspect)
