"""By what a model is known again of which something was measured."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.digest import tensors_digest


@dataclass(frozen=True)
class MeasuredModel:
    """By what a model is known again: SHA-256 of its file, and of its tensors by their names.

    file: None if it is not known. tensors: None in a file of an earlier version.
    """

    file: str | None
    tensors: str | None

    def same_as(self, other: MeasuredModel) -> bool:
        """Return whether one of the digests says that the two are the same."""
        by_file = self.file is not None and self.file == other.file
        return by_file or (self.tensors is not None and self.tensors == other.tensors)


def model_digest(source: TensorSource, model: Checkpoint) -> str:
    """Return the digest of tensors under the names that the file of a checkpoint has for them."""
    stored = {model.stored_name(name): name for name in model.names() if name not in model.ties}
    return tensors_digest((name, source.load(stored[name])) for name in sorted(stored))
