"""Name patterns: which tensor names they match, and which indices they read off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from rebasin_cli.spec.language.expression import SyntaxProblem
from rebasin_cli.spec.language.tensor_names import INDEX, TensorNames

END = re.compile(r"(first|last)(?:\.(?:prev|next))*")
_PIECE = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|\*+|[^{}\[\]*]+|.", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGITS = rf"(?<![0-9]){INDEX}(?![0-9])"

Rank = tuple[bool, int, bool]


@dataclass(frozen=True)
class Pattern:
    """A compiled name pattern.

    expression: the regular one. indices: the variables `{i}`, in order. ends: what stands in
    `{first}`, `{last.prev}`, ... names_axis: the variable in square brackets.
    rank: the lower, the more specific. optional: the text ends in `?`, and may match nothing.
    """

    text: str
    expression: str
    indices: tuple[str, ...]
    ends: tuple[str, ...]
    names_axis: str | None
    rank: Rank
    optional: bool

    @property
    def literal(self) -> str | None:
        """The name that the text is, if it is one."""
        return None if re.search(r"[{\[*]", self.text) else _without_mark(self.text)


@dataclass(frozen=True)
class PatternMatch:
    """One name that a pattern matches.

    indices: variable -> (the text before it, its value). ends: the texts before `{first}`, ...
    stack: for an axis of names the name's text before and after the index, and the index.
    """

    name: str
    indices: dict[str, tuple[str, int]]
    ends: tuple[str, ...]
    stack: tuple[str, str, int] | None


@lru_cache(maxsize=8192)  # choosing among the bundled specs asks for their 3,600 twice
def compile_pattern(text: str) -> Pattern:
    """Return the pattern for its text. Raises SyntaxProblem."""
    builder = _Builder()
    required = _without_mark(text)
    for piece in _PIECE.finditer(required):
        builder.add(piece[0], piece.start())
    if not required:
        raise SyntaxProblem("a pattern cannot be empty", 0)
    free = len(builder.indices) + (builder.names_axis is not None)
    rank = ("*" in required, free, bool(builder.ends))
    ends, names_axis = tuple(builder.ends), builder.names_axis
    return Pattern(
        text=text,
        expression="".join(builder.parts),
        indices=tuple(builder.indices),
        ends=ends,
        names_axis=names_axis,
        rank=rank,
        optional=required != text,
    )


def pattern_pieces(text: str) -> list[str]:
    """Return what a pattern consists of: literal text, `{...}`, `[...]`, `*`; without its `?`."""
    return _PIECE.findall(_without_mark(text))


def _without_mark(text: str) -> str:
    return text.removesuffix("?")


class _Builder:
    """The regular expression of a pattern, piece by piece."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.indices: list[str] = []
        self.ends: list[str] = []
        self.names_axis: str | None = None

    def add(self, piece: str, offset: int) -> None:
        inside = piece[1:-1]
        if piece[0] == "*":
            self.parts.append(".*")
        elif piece[0] == "[" and len(piece) > 1:
            self._add_names_axis(piece, inside, offset)
        elif piece[0] != "{" or len(piece) == 1:
            self._add_literal(piece, offset)
        elif "," in inside:
            self.parts.append(f"(?:{'|'.join(map(re.escape, inside.split(',')))})")
        elif END.fullmatch(inside):
            self.parts.append(f"(?P<end_{len(self.ends)}>{_DIGITS})")
            self.ends.append(inside)
        else:
            self._add_index(piece, inside, offset)

    def _add_literal(self, piece: str, offset: int) -> None:
        if piece in ("{", "}", "[", "]"):
            raise SyntaxProblem(f"{piece!r} has no partner", offset)
        self.parts.append(re.escape(piece))

    def _add_names_axis(self, piece: str, inside: str, offset: int) -> None:
        self._check_variable(piece, inside, offset)
        if self.names_axis is not None or inside in self.indices:
            raise SyntaxProblem("a pattern has one axis of names at most", offset, len(piece))
        self.names_axis = inside
        self.parts.append(f"(?P<axis_{inside}>{_DIGITS})")

    def _add_index(self, piece: str, inside: str, offset: int) -> None:
        self._check_variable(piece, inside, offset)
        if inside == self.names_axis:
            what = f"{inside!r} is an axis of names already"
            raise SyntaxProblem(what, offset, len(piece))
        if inside in self.indices:
            self.parts.append(f"(?P=index_{inside})")
            return
        self.indices.append(inside)
        self.parts.append(f"(?P<index_{inside}>{_DIGITS})")

    def _check_variable(self, piece: str, inside: str, offset: int) -> None:
        if not _VARIABLE.fullmatch(inside):
            raise SyntaxProblem(
                f"{piece!r} cannot stand in a name pattern",
                offset,
                len(piece),
                "a pattern has {i}, {first}, {last}, {last.prev}, {a,b}, * and [e]; "
                "neighbours such as {i.prev} stand in group names",
            )


@lru_cache(maxsize=4096)
def _compile(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.DOTALL)


def match_name(pattern: Pattern, name: str, names: TensorNames) -> PatternMatch | None:
    """Return how the pattern matches one name, or None."""
    found = _compile(pattern.expression).fullmatch(name)
    if found is None:
        return None
    ends = tuple(name[: found.start(f"end_{k}")] for k in range(len(pattern.ends)))
    for k, (end, place) in enumerate(zip(pattern.ends, ends, strict=True)):
        if names.end(place, end) != int(found[f"end_{k}"]):
            return None
    indices = {
        variable: (name[: found.start(f"index_{variable}")], int(found[f"index_{variable}"]))
        for variable in pattern.indices
    }
    return PatternMatch(name, indices, ends, _stack(pattern, found))


def _stack(pattern: Pattern, found: re.Match[str]) -> tuple[str, str, int] | None:
    if pattern.names_axis is None:
        return None
    group = f"axis_{pattern.names_axis}"
    name = found.string
    return name[: found.start(group)], name[found.end(group) :], int(found[group])


def matches(pattern: Pattern, names: TensorNames) -> Iterator[PatternMatch]:
    """Yield the matches among all names, in their order."""
    if pattern.literal is not None:
        if pattern.literal in names:
            yield PatternMatch(pattern.literal, {}, (), None)
        return
    for name in names.order:
        match = match_name(pattern, name, names)
        if match is not None:
            yield match
