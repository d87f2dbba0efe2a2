"""A run that goes on where earlier ones ended: what they have finished is not made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.disk import OpenFile
from rebasin_cli.errors import RebasinError, UsageError, warn
from rebasin_cli.files.places import real_path
from rebasin_cli.files.targets import Target
from rebasin_cli.presentation.events import SCHEMA, finite_json
from rebasin_cli.presentation.outcomes import LeftAsIs, Reused
from rebasin_cli.presentation.presenter import Presenters
from rebasin_cli.presentation.written import file_fields
from rebasin_cli.resuming.circumstances import Circumstances, difference
from rebasin_cli.resuming.finished import BEGUN, FINISHED, STEP, FinishedList, read_finished

StepT = TypeVar("StepT")


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
        """Find the results that are finished, and list in the file those that are to come.

        Raises UsageError if the results in the list depend on other options or inputs, unless
        `anew` allows that all are made anew.
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
        """Yield outcomes, and list each new result in the file as finished.

        For a skipped result that an earlier run has finished, that one is yielded instead.
        place_of: outcome -> the path of its result; None: it is no result.
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
        self.known.file.add(finite_json({**head, **facts}))

    def _forget(self, path: Path, changed: str, *, anew: bool) -> None:
        what = f"{path} lists results of another run: {changed}"
        if not anew:
            raise UsageError(
                what,
                hint="--force makes all anew; or name a file that is not there yet with --resume",
            )
        warn(f"{what}; all are made anew")
        path.unlink()
        self.known = read_finished(path, self.known.command)

    def _found(self) -> Iterator[tuple[Path, Reused]]:
        """Yield the results that are there as they were written."""
        for place, files in self.results.items():
            event = self.known.finished.get(real_path(place))
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
            warn(what)
        return found is not None and found == wanted

    def _named(self, place: Path) -> str:
        """Return a place as the list has it: from its own folder."""
        path = self.known.file.path
        assert path is not None
        return os.path.relpath(real_path(place), real_path(path.parent))


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
