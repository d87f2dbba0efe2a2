"""The file that `--resume` names: where learning stands, for two checkpoints and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_tensors
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.errors import CheckpointError, UsageError
from rebasin_cli.files.places import files_of, real_path
from rebasin_cli.files.targets import check_ending
from rebasin_cli.json_text import read_json

REFERENCE, MODEL = "rebasin.reference", "rebasin.model"


@dataclass(frozen=True)
class KeptState:
    """A file for the state of one way to learn.

    key: of its facts in the metadata, another for each way. models: the reference, and the other.
    circumstances: by what they are called, what must not change between two parts of one run.
    """

    path: Path
    key: str
    models: tuple[Checkpoint, Checkpoint]
    circumstances: Mapping[str, Any]

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write where learning stands, whole or not at all."""
        reference, model = (each.sha256() for each in self.models)
        told = json.dumps({**facts, **self.circumstances}, sort_keys=True)
        metadata = {self.key: told, REFERENCE: reference, MODEL: model}
        here = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_tensors(self.path, here, metadata=metadata, overwrite=True)

    def read(self) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
        """Return tensors and facts. Raises CheckpointError if it is no such file, or of others."""
        with open_checkpoint(self.path) as held:
            facts = self._facts(held)
            for key, model in zip((REFERENCE, MODEL), self.models, strict=True):
                if held.metadata.get(key) != model.sha256():
                    raise self.refused(f"it was written for another model than {model.path}")
            for name, now in self.circumstances.items():
                if facts.get(name) != now:
                    raise self.refused(f"its {name} was {facts.get(name)}, now it is {now}")
            return {name: held.load(name).clone() for name in held.names()}, facts

    def _facts(self, held: Checkpoint) -> Mapping[str, Any]:
        try:
            facts = read_json(held.metadata.get(self.key, ""))
        except ValueError as error:
            raise self.refused("this is not a state of learning") from error
        if not isinstance(facts, dict):
            raise self.refused("this is not a state of learning")
        return facts

    def refused(self, what: str) -> CheckpointError:
        """Return the error that says why learning does not go on from the file."""
        return CheckpointError(
            f"learning cannot go on from here: {what}",
            where=str(self.path),
            hint="name a file that is not there yet with --resume to begin anew",
        )


def data_circumstances(request: AlignRequest) -> dict[str, Any]:
    """Return what of the data and its use must not change."""
    return {
        "held-out share": request.learning.held_out,
        "seed": request.computing.seed,
        "data": request.data.data,
        "number of batches": request.data.batches,
    }


def check_state_place(models: Sequence[Checkpoint], path: Path | None) -> None:
    """Raise UsageError for a file that cannot hold a state, CheckpointError without its folder."""
    if path is None:
        return
    if len(models) > 2:
        raise UsageError("--resume keeps the state of one model", hint="align them one by one")
    if real_path(path) in [real_path(f) for model in models for f in files_of(model)]:
        raise UsageError(f"--resume {path} is one of the models")
    check_ending(path)
    if not path.parent.is_dir():
        raise CheckpointError("there is no such folder", where=str(path.parent))
