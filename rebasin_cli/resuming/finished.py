"""Results that were finished, listed in a file, so that a later run need not make them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.errors import UsageError
from rebasin_cli.files.places import check_distinct, files_of, real_path
from rebasin_cli.options.output import Output
from rebasin_cli.resuming.circumstances import Circumstances
from rebasin_cli.resuming.event_file import EventFile

BEGUN, FINISHED, STEP = "begun", "finished", "step"
_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    BEGUN: {"places": list, "of": dict},
    FINISHED: {"place": str, "files": dict, "result": dict, "text": (str, type(None))},
    STEP: {"number": int, "found": dict},
}


@dataclass(frozen=True)
class FinishedList:
    """What a file says of earlier runs of a command. file: where more is added.

    of: what the results depend on; None: there are none. begun: places of all results and what goes
    with them, finished or not. finished: the event of each result by its place. steps: what
    was found on the way to results, by number.
    """

    file: EventFile[Mapping[str, Any]]
    command: str
    of: Circumstances | None = None
    begun: frozenset[Path] = frozenset()
    finished: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    steps: Mapping[int, Any] = field(default_factory=dict)

    def replacing(self, place: Path, output: Output) -> Output:
        """Return the output options for a result; a file that an earlier run began is replaced."""
        return replace(output, force=True) if place in self else output

    def __contains__(self, place: Path) -> bool:
        return real_path(place) in self.begun


def plan_finished(
    path: Path | None,
    command: str,
    models: Sequence[Checkpoint],
    places: Sequence[Path],
    output: Output,
) -> FinishedList:
    """Return what a file says of earlier runs, before anything is made at the places.

    Raises UsageError where two results, or a result and the list, would go to one place, and where
    the list is one of the models or could not tell whether these are the same.
    """
    check_distinct([*places, *([path] if path else [])])
    if path is None:
        return read_finished(path, command)
    if any(isinstance(each, RemotePath) for each in (path, *places)):
        raise UsageError("--resume lists results on this machine", hint="leave it out for a store")
    if real_path(path) in [real_path(file) for model in models for file in files_of(model)]:
        raise UsageError(f"--resume {path} is one of the models")
    if output.in_place:
        raise UsageError("--resume compares the inputs with those before, and --in-place ends them")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist", hint="create it first")
    return read_finished(path, command)


def read_finished(path: Path | None, command: str) -> FinishedList:
    """Return what a file says of earlier runs; nothing, if there is none.

    Raises RebasinError for a file of anything else.
    """
    file = EventFile(
        path,
        lambda event: _ours(event, command),
        what="not a list of what was finished",
        hint=f"--resume takes a file that `rebasin {command} --resume` wrote, or one not there yet",
    )
    heads = [each for each in file.records if each["event"] == BEGUN]
    if path is None or not heads:
        return FinishedList(file, command)
    folder = real_path(path.parent)
    begun = {place for head in heads for place in head["places"]}
    done = {each["place"]: each for each in file.records if each["event"] == FINISHED}
    return FinishedList(
        file,
        command,
        of=heads[0]["of"],
        begun=frozenset(_place(folder, place) for place in begun),
        finished={_place(folder, place): event for place, event in done.items()},
        steps={each["number"]: each["found"] for each in file.records if each["event"] == STEP},
    )


def _ours(event: Mapping[str, Any], command: str) -> Mapping[str, Any]:
    """Return an event of ours, its fields of the types that they are written with."""
    kind = event["event"]
    if event["command"] != command or kind not in _FIELDS:
        raise ValueError(kind)
    wrong = [name for name, type_ in _FIELDS[kind].items() if not isinstance(event[name], type_)]
    places = event["places"] if kind == BEGUN else [event.get("place", "")]
    if wrong or not all(isinstance(each, str) and "\0" not in each for each in places):
        raise TypeError(wrong)
    return event


def _place(folder: Path, place: str) -> Path:
    return real_path(folder / place)
