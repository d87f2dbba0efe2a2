"""Results that were finished, listed in a file, so that a later run need not make them again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from rebasin_cli.checkpoint.reader import Checkpoint, open_checkpoint
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.errors import RebasinError, RebasinWarning, UsageError
from rebasin_cli.files.places import check_distinct, files_of
from rebasin_cli.files.targets import Target
from rebasin_cli.options.output import Output
from rebasin_cli.presentation.events import finite
from rebasin_cli.presentation.outcomes import LeftAsIs, Reused
from rebasin_cli.presentation.presenter import Presenters
from rebasin_cli.presentation.written import file_fields
from rebasin_cli.resuming.circumstances import Circumstances, difference
from rebasin_cli.resuming.event_file import SCHEMA, EventFile

BEGUN, FINISHED, STEP = "begun", "finished", "step"
StepT = TypeVar("StepT")
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
        """Return how a result is written: one that was begun may be replaced."""
        return replace(output, force=True) if place in self else output

    def __contains__(self, place: Path) -> bool:
        return place.resolve() in self.begun


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
    if path.resolve() in [file.resolve() for model in models for file in files_of(model)]:
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
    folder = path.parent.resolve()
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
    return (folder / place).resolve()


@dataclass(frozen=True)
class StepForm(Generic[StepT]):
    """How what a step finds is listed: as JSON values."""

    dump: Callable[[StepT], Any]
    parse: Callable[[Any], StepT]


@dataclass
class Resumed:
    """A run that goes on where earlier ones ended. results: all, with the files of each.

    reused: those that are there, by their places.
    """

    known: FinishedList
    results: Mapping[Path, Sequence[Path]]
    reused: Mapping[Path, Reused] = field(default_factory=dict)
    _steps: int = 0

    def begin(self, circumstances: Callable[[], Circumstances], *, anew: bool) -> None:
        """Look for what is finished, and put down what is to come.

        Raises UsageError where the results in the list depend on something else, unless all may
        be made anew.
        """
        if self.known.file.path is None:
            return
        of = circumstances()
        changed = None if self.known.of is None else difference(self.known.of, of)
        if changed is not None:
            self._forget(self.known.file.path, changed, anew=anew)
        self.reused = dict(self._found())
        files = [file for place, files in self.results.items() for file in (place, *files)]
        places = [self._named(file) for file in dict.fromkeys(files)]
        head = {"schema": SCHEMA, "event": BEGUN, "command": self.known.command}
        self.known.file.add({**head, "places": places, "of": of})

    def left(self, target: Target) -> Target:
        """Return a target, of which nothing is written if it is finished."""
        done = target.path in self.reused
        return replace(target, place=replace(target.place, skip=True)) if done else target

    def step(self, find: Callable[[], StepT], form: StepForm[StepT]) -> StepT:
        """Return what the next step of the work finds: known from an earlier run, else listed now.

        Only for steps that every run takes in one order.
        """
        number, self._steps = self._steps, self._steps + 1
        if number in self.known.steps:
            return form.parse(self.known.steps[number])
        found = find()
        if self.known.file.path is not None:
            head = {"schema": SCHEMA, "event": STEP, "command": self.known.command}
            self.known.file.add({**head, "number": number, "found": form.dump(found)})
        return found

    def noted(
        self,
        outcomes: Iterable[Any],
        place_of: Callable[[Any], Path | None],
        presenters: Presenters,
    ) -> Iterator[Any]:
        """Yield outcomes, what is finished in the place of what was skipped; the others are listed.

        place_of: an outcome -> the place of the result that it is; None: it is none.
        """
        for outcome in outcomes:
            if isinstance(outcome, LeftAsIs) and outcome.path in self.reused:
                yield self.reused[outcome.path]
                continue
            place = place_of(outcome)
            if place is not None and self.known.file.path is not None:
                self._add(place, outcome, presenters)
            yield outcome

    def _add(self, place: Path, outcome: Any, presenters: Presenters) -> None:
        presenter = presenters[type(outcome)]
        written = presenter.written(outcome)
        digests = {written.path: written.sha256} if written else {}
        files = {file: digests.get(file) or _digest(file) for file in self.results[place]}
        head = {"schema": SCHEMA, "event": FINISHED, "command": self.known.command}
        facts = {
            "place": self._named(place),
            "files": {self._named(file): digest for file, digest in files.items()},
            "result": {**file_fields(written), **(presenter.fields(outcome) or {})},
            "text": None if written else presenter.text and presenter.text(outcome),
        }
        self.known.file.add(finite({**head, **facts}))

    def _forget(self, path: Path, changed: str, *, anew: bool) -> None:
        what = f"{path} lists results of another run: {changed}"
        if not anew:
            raise UsageError(
                what,
                hint="--force makes all anew; or name a file that is not there yet with --resume",
            )
        warnings.warn(RebasinWarning(f"{what}; all are made anew"), stacklevel=2)
        path.unlink()
        self.known = read_finished(path, self.known.command)

    def _found(self) -> Iterator[tuple[Path, Reused]]:
        """Yield the results that are there as they were written."""
        for place, files in self.results.items():
            event = self.known.finished.get(place.resolve())
            if event is None or not all(self._as_written(file, event) for file in files):
                continue
            result, text = dict(event["result"]), event["text"]
            if "path" in result:
                result["path"] = str(place)
            yield place, Reused(place, result, str(place) if text is None else str(text))

    def _as_written(self, file: Path, event: Mapping[str, Any]) -> bool:
        wanted, found = event["files"].get(self._named(file)), _digest(file)
        if found is not None and wanted is not None and found != wanted:
            what = f"{file} is not as it was written: it is made again"
            warnings.warn(RebasinWarning(what), stacklevel=2)
        return found is not None and found == wanted

    def _named(self, place: Path) -> str:
        """Return a place as the list has it: from its own folder."""
        path = self.known.file.path
        assert path is not None
        return os.path.relpath(place.resolve(), path.parent.resolve())


def _digest(path: Path) -> str | None:
    """Return the digest of a file, or of the weights in a folder; None if there is nothing."""
    if not path.exists():
        return None
    try:
        if path.is_dir():
            with open_checkpoint(path) as model:
                return model.sha256()
        return OpenFile(path).sha256
    except RebasinError:
        return None
