"""Checkpoint files: opened lazily, checked before use, written whole or not at all."""

from rebasin_cli.checkpoint.configuration import CONFIG, configuration_in
from rebasin_cli.checkpoint.layout import Layout, layout_for
from rebasin_cli.checkpoint.reader import Checkpoint, Reading, open_checkpoint
from rebasin_cli.checkpoint.torch_format.container import PartError
from rebasin_cli.checkpoint.writing.writer import (
    Written,
    write_checkpoint,
    write_tensors,
    write_text,
)

__all__ = [
    "CONFIG",
    "Checkpoint",
    "Layout",
    "PartError",
    "Reading",
    "Written",
    "configuration_in",
    "layout_for",
    "open_checkpoint",
    "write_checkpoint",
    "write_tensors",
    "write_text",
]
