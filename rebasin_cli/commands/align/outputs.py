"""Where `rebasin align` writes models, and what each of them was moved by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.files.places import OutputPlace, files_of, plan_place
from rebasin_cli.files.targets import Target, plan_target
from rebasin_cli.resuming.finished import FinishedList


def check_models_given(request: AlignRequest) -> None:
    """Raise UsageError unless there is something to align."""
    if len(request.models) < 2:
        raise UsageError(
            "align needs a reference and at least one model",
            hint="rebasin align REFERENCE MODEL...",
        )


def plan_targets(
    models: Sequence[Checkpoint],
    outs: Sequence[Path],
    inputs: Sequence[Path],
    finished: FinishedList,
    request: AlignRequest,
) -> list[Target]:
    """Return how each model is written; no output may be an input but the model's own.

    outs: where to. inputs: the files that are read.
    """
    return [
        plan_target(
            out,
            model,
            request.selection,
            finished.replacing(out, request.output),
            own=[model],
            others=[file for file in inputs if file not in files_of(model)],
            create=_several(request),
        )
        for out, model in zip(outs, models, strict=True)
    ]


def plan_saves(
    saves: Sequence[Path], inputs: Sequence[Path], finished: FinishedList, request: AlignRequest
) -> list[OutputPlace | None]:
    """Return where what each model but the reference was moved by is saved, if it is."""
    found = [
        plan_place(
            path,
            finished.replacing(path, request.output),
            others=inputs,
            create=_several(request) or (request.save or "").endswith("/"),
        )
        for path in saves
    ]
    return [*found] or [None] * (len(request.models) - 1)


def _several(request: AlignRequest) -> bool:
    """Return whether results go into a folder, which is made."""
    return len(request.models) > 2 or request.output.names_folder
