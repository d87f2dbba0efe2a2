"""YAML text to nodes that know their place; the only module that imports yaml.

Only what a spec needs is let through: text, lists and tables. Anchors, aliases and tags are
refused and depth and size are limited, so that no text can expand to more than it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from rebasin_cli.spec.language.model import TextPlace
from rebasin_cli.spec.language.problems import LINE_BREAK, Problems

MAX_CHARACTERS = 10_000_000
MAX_DEPTH = 6
_MAX_REFUSALS = 20

_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# `[ffn.{i}]` is not YAML: inside a flow list a brace opens a table. A brace pair without a colon
# never means a table here, so templates and choices travel through YAML as private characters.
_TEMPLATE = re.compile(r"\{[^{}\[\]:'\"#\r\n]*[^{}\[\]:'\"#\r\n\s][^{}\[\]:'\"#\r\n]*\}")
_MASK = str.maketrans("{},", "\ue000\ue001\ue002")
_UNMASK = str.maketrans("\ue000\ue001\ue002", "{},")
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ue000-\ue002\ufeff\ufffe\uffff]"
)
# A bracket, or a comment or quoted text, in which brackets do not count.
_BRACKET = re.compile(
    r"""(?<!\S)\#.*
    |   (?<![^\s\[\]{},:]) (?: "(?:\\.|[^"\\])*"? | '[^']*'? )
    |   (?P<opens>[\[{]) | (?P<closes>[\]}])""",
    re.VERBOSE,
)
_DEEP = f"lists and tables nest deeper than {MAX_DEPTH}"
_DEEP_HINT = "close every bracket: the deepest entry, `parts: [[...], [...]]` of a split, needs 5"
_QUOTE_HINT = "put quotes around text that begins with one of * & ! { [ % @ ` or has ': ' in it"


@dataclass(frozen=True)
class YamlText:
    """A scalar. plain: written without quotes. exact: offsets in the text are columns."""

    text: str
    place: TextPlace
    plain: bool
    exact: bool

    def locate(self, offset: int, width: int) -> TextPlace:
        """Return the place of some characters of the text, or of all of it."""
        if not self.exact:
            return self.place
        quote = 0 if self.plain else 1
        return TextPlace(self.place.line, self.place.column + quote + offset, width)


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    place: TextPlace


@dataclass(frozen=True)
class Table:
    """Keys, all different, and their values."""

    pairs: tuple[tuple[YamlText, Node], ...]
    place: TextPlace


Node = YamlText | Items | Table


def read_yaml(text: str, problems: Problems) -> Node | None:
    """Return the one document in a text, or None (after a problem was added)."""
    if not _readable(text, problems):
        return None
    masked = _TEMPLATE.sub(lambda match: match[0].translate(_MASK), text)
    try:
        if not _harmless(masked, problems):
            return None
        node = yaml.compose(masked, Loader=_YamlLoader)
    except yaml.YAMLError as error:
        _translate(error, problems)
        return None
    if node is None:
        problems.add(
            "the spec is empty", TextPlace(1, 1), hint="`rebasin spec init` writes a start"
        )
        return None
    return _Converter(masked, problems).node(node)


def _readable(text: str, problems: Problems) -> bool:
    if len(text) > MAX_CHARACTERS:
        problems.add(
            "the spec is too large",
            None,
            detail=f"at most {MAX_CHARACTERS:,} characters are read, these are {len(text):,}",
        )
        return False
    bad = _FORBIDDEN.search(text)
    if bad:
        before = LINE_BREAK.split(text[: bad.start()])
        place = TextPlace(len(before), len(before[-1]) + 1)
        problems.add(f"character U+{ord(bad[0]):04X} cannot stand in a spec", place)
    return bad is None


def _harmless(text: str, problems: Problems) -> bool:
    """Check the events before any tree is made: no aliases, no tags, one shallow document."""
    depth = documents = done = 0
    try:
        for event in yaml.parse(text, Loader=_YamlLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            what, hint = _refusal(event)
            if depth > MAX_DEPTH:
                what, hint = _DEEP, _DEEP_HINT
            if documents > 1:
                what, hint = "a spec is one YAML document, this is the second", ""
            if what and event.start_mark is not None:
                problems.add(what, _mark(event.start_mark), hint=hint)
            if depth > MAX_DEPTH or documents > 1 or len(problems) >= _MAX_REFUSALS:
                break
            done = event.end_mark.index if event.end_mark is not None else done
    except yaml.MarkedYAMLError as error:
        end = error.problem_mark.index if error.problem_mark is not None else len(text)
        place = _too_deep(text, (done, end), depth)
        if place is None:
            raise
        problems.add(_DEEP, place, hint=_DEEP_HINT)
    return not len(problems)


def _too_deep(text: str, span: tuple[int, int], depth: int) -> TextPlace | None:
    """Return the bracket that opens one level too many, None if there is none.

    The scanner reads ahead of its events, and may give up over the brackets that it finds there.

    span, depth: from the end of the last event to the error, and how deep that event left us.
    """
    for match in _BRACKET.finditer(text, *span):
        depth += (match["opens"] is not None) - (match["closes"] is not None)
        if depth > MAX_DEPTH:
            lines = LINE_BREAK.split(text[: match.start()])
            return TextPlace(len(lines), len(lines[-1]) + 1)
    return None


def _refusal(event: yaml.Event) -> tuple[str, str]:
    anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
    if isinstance(event, yaml.AliasEvent):
        return f"YAML aliases are not read here: *{anchor}", _QUOTE_HINT
    if anchor:
        return f"YAML anchors are not read here: &{anchor}", "write the value out"
    return (f"YAML tags are not read here: {tag}", _QUOTE_HINT) if tag else ("", "")


def _mark(mark: Any, width: int = 1) -> TextPlace:
    return TextPlace(mark.line + 1, mark.column + 1, width)


def _translate(error: yaml.YAMLError, problems: Problems) -> None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    what = f"not YAML: {said}" + (f" ({context})" if context else "")
    problems.add(what, _mark(mark) if mark else None, hint=_QUOTE_HINT)


class _Converter:
    """yaml's nodes to ours; recursion is bounded because `_harmless` came first."""

    def __init__(self, masked: str, problems: Problems) -> None:
        self._lines = LINE_BREAK.split(masked)
        self._problems = problems

    def node(self, node: yaml.Node) -> Node:
        if isinstance(node, yaml.SequenceNode):
            return Items(tuple(map(self.node, node.value)), self._place(node))
        if isinstance(node, yaml.MappingNode):
            return Table(tuple(self._pairs(node)), self._place(node))
        return self._text(node)  # type: ignore[arg-type]

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[YamlText, Node]]:
        first: dict[str, TextPlace] = {}
        for key_node, value_node in node.value:
            key, value = self.node(key_node), self.node(value_node)
            if not isinstance(key, YamlText):
                self._problems.add("a key must be text", key.place, hint=_QUOTE_HINT)
            elif key.text in first:
                self._problems.add(
                    f"key {key.text!r} occurs twice",
                    key.place,
                    detail=f"the first one is in line {first[key.text].line}",
                )
            else:
                first[key.text] = key.place
                yield key, value

    def _text(self, node: yaml.ScalarNode) -> YamlText:
        place, plain = self._place(node), not node.style
        start = place.column - 1 + (not plain)
        line = next(iter(self._lines[place.line - 1 :]), "")  # a value that is not there is below
        written = line[start : start + len(node.value)]
        return YamlText(node.value.translate(_UNMASK), place, plain, written == node.value)

    def _place(self, node: yaml.Node) -> TextPlace:
        start, end = node.start_mark, node.end_mark
        width = end.column - start.column if end.line == start.line else 1
        return _mark(start, max(1, width))
