"""The commands that reorder the units of models: align and apply."""

from __future__ import annotations

from rebasin_cli.commands.align.command import align
from rebasin_cli.commands.apply.command import apply

COMMANDS = (align, apply)
