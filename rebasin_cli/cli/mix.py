"""The commands that make new models out of others: merge and lerp."""

from __future__ import annotations

from rebasin_cli.commands.lerp.command import lerp
from rebasin_cli.commands.merge.command import merge

COMMANDS = (merge, lerp)
