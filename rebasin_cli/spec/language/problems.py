"""Problems of one spec, collected so that all of them can be reported at once."""

from __future__ import annotations

import re
from dataclasses import replace

from rebasin_cli.errors import Problem, SpecError
from rebasin_cli.spec.language.model import Entry, TextPlace, entry_names
from rebasin_cli.spec.language.tensor_names import skeleton

# YAML's line breaks; excerpts must count lines as the YAML scanner does.
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_WINDOW = 90  # the line number and ` | ` take 8 columns of about 100


class Problems:
    """A growing list of problems in one text; the like of one that is in it is only counted."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._lines = LINE_BREAK.split(text) if text else []
        self.added = 0  # calls of `add`, those that were only counted included
        self._found: list[tuple[tuple[int, int], Problem]] = []
        self._doubtful: set[str] = set()
        self._absent: set[str] = set()
        self._alike: dict[tuple[TextPlace | None, str], list[int]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(
        self, what: str, at: TextPlace | None, *, detail: str = "", hint: str = "", kind: str = ""
    ) -> None:
        """Record a problem; with a kind, only the first one of that kind at that place."""
        self.added += 1
        alike = self._alike.setdefault((at, kind or what), [len(self._found), 0])
        alike[1] += 1
        if alike[1] > 1:
            return
        where = f"{self.source}:{at.line}:{at.column}" if at else self.source
        problem = Problem(what, where, self._excerpt(at), detail, hint)
        self._found.append(((at.line, at.column) if at else (0, 0), problem))

    def doubt(self, entry: Entry) -> None:
        """Remember that an entry was not used: what follows for its groups is no news."""
        self._doubtful |= _skeletons(entry)

    def doubtful(self, group: str) -> bool:
        """Return whether an entry that names a group like this was not used."""
        return skeleton(group) in self._doubtful

    def excuse(self, entry: Entry) -> None:
        """Remember that an optional entry matched nothing: its groups need not exist."""
        self._absent |= _skeletons(entry)

    def absent(self, group: str) -> bool:
        """Return whether an optional entry that names a group like this matched nothing."""
        return skeleton(group) in self._absent

    def stop(self) -> None:
        """Raise SpecError with all problems, in the order of the text, if there are any."""
        if not self._found:
            return
        found = [problem for _, problem in self._found]
        for (_, kind), (index, count) in self._alike.items():
            if count > 1 and kind != found[index].what:
                found[index] = _with_count(found[index], count - 1)
        order = sorted(range(len(found)), key=lambda k: self._found[k][0])
        raise SpecError(*(found[k] for k in order))

    def _excerpt(self, at: TextPlace | None) -> str:
        if at is None or at.line > len(self._lines):
            return ""
        line = self._lines[at.line - 1].replace("\t", " ")
        column = min(at.column - 1, len(line))
        start = max(0, column - _WINDOW // 2) if len(line) > _WINDOW else 0
        shown = line[start : start + _WINDOW].rstrip()
        width = max(1, min(at.width, start + _WINDOW - column, len(line) - column))
        caret = " " * (column - start) + "^" * width
        return f"{at.line:>5} | {shown}\n{'':>5} | {caret}"


def _skeletons(entry: Entry) -> set[str]:
    return set(map(skeleton, entry_names(entry)))


def _with_count(problem: Problem, others: int) -> Problem:
    note = f"(and {others} more like it)"
    return replace(problem, detail=f"{problem.detail}\n{note}" if problem.detail else note)
