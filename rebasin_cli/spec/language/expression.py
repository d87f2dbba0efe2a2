"""Axis expressions as text: `kv * (q * qk + qk + vo)` to a tree and back.

expression := sum ('|' sum)*
sum        := product ('+' product)*
product    := factor ('*' factor)*
factor     := NAME | INTEGER | '~' | '(' expression ')'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType

from rebasin_cli.errors import suggest
from rebasin_cli.spec.language.model import (
    AxisExpr,
    Fixed,
    Interleaving,
    Named,
    Product,
    Sum,
    TextPlace,
    concatenation,
    interleaving,
    product,
)

MAX_DEPTH = 20
MAX_DIGITS = 15
MAX_TOKENS = 10_000

TEMPLATE = re.compile(r"\{([^{}]*)\}")
_VALID_TEMPLATE = re.compile(r"[A-Za-z_]\w*(?:\.(?:prev|next))*", re.ASCII)
_TOKEN = re.compile(r"(?P<name>(?:[\w.\-]|\{[^{}]*\})+)|(?P<symbol>[~*+|()])|(?P<space>\s+)")


class SyntaxProblem(Exception):
    """A short fact about characters `offset` to `offset + width` of a text."""

    def __init__(self, what: str, offset: int, width: int = 1, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.offset, self.width, self.hint = what, offset, width, hint


@dataclass(frozen=True)
class _Token:
    text: str
    offset: int

    def refuse(self, what: str, hint: str = "") -> SyntaxProblem:
        return SyntaxProblem(what, self.offset, max(1, len(self.text)), hint)


def parse_expression(text: str, locate: Callable[[int, int], TextPlace | None]) -> AxisExpr:
    """Return the tree of an axis expression.

    locate: from offset and width in `text` to a place. Raises SyntaxProblem.
    """
    return _Parser(text, locate).whole()


class _Parser:
    """One walk over the tokens; each method consumes what it returns."""

    def __init__(self, text: str, locate: Callable[[int, int], TextPlace | None]) -> None:
        self._tokens = [*_tokens(text), _Token("", len(text))]
        if len(self._tokens) > MAX_TOKENS:
            raise SyntaxProblem(f"more than {MAX_TOKENS:,} factors and operators", 0, len(text))
        self._position = 0
        self._depth = 0
        self._locate = locate

    def whole(self) -> AxisExpr:
        tree = self._interleaved()
        if self._next.text:
            raise self._next.refuse(
                f"{self._next.text!r} is out of place",
                "write '*' between factors, '+' between segments, '|' between interleaved parts",
            )
        return tree

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _skip(self, symbol: str) -> bool:
        found = self._next.text == symbol
        self._position += found
        return found

    def _interleaved(self) -> AxisExpr:
        parts = [self._sum()]
        while self._skip("|"):
            parts.append(self._sum())
        return interleaving(parts)

    def _sum(self) -> AxisExpr:
        segments = [self._product()]
        while self._skip("+"):
            segments.append(self._product())
        return concatenation(segments)

    def _product(self) -> AxisExpr:
        factors = [self._factor()]
        while self._skip("*"):
            factors.append(self._factor())
        return product(factors)

    def _factor(self) -> AxisExpr:
        token = self._next
        if token.text in ("", "*", "+", "|", ")"):
            found = repr(token.text) if token.text else "the end"
            raise token.refuse(f"expected a group, a size, '~' or '(' but found {found}")
        self._position += 1
        if token.text == "(":
            return self._group(token)
        at = self._locate(token.offset, len(token.text))
        return _leaf(token, at)

    def _group(self, opening: _Token) -> AxisExpr:
        if self._depth == MAX_DEPTH:
            raise opening.refuse(f"parentheses nest deeper than {MAX_DEPTH}")
        self._depth += 1
        inside = self._interleaved()
        self._depth -= 1
        if not self._skip(")"):
            raise opening.refuse("this parenthesis is not closed")
        return inside


def _tokens(text: str) -> Iterator[_Token]:
    offset = 0
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        if match is None:
            raise SyntaxProblem(f"unexpected character {text[offset]!r}", offset)
        if not match["space"]:
            yield _Token(match[0], offset)
        offset = match.end()


def _leaf(token: _Token, at: TextPlace | None) -> Named | Fixed:
    text = token.text
    if text == "~":
        return Fixed(None, at)
    if re.fullmatch("[0-9]+", text):
        return Fixed(_size(token), at)
    check_name(text, token.offset)
    return Named(text, at)


def _size(token: _Token) -> int:
    if len(token.text) > MAX_DIGITS:
        raise token.refuse("a size this large cannot be meant")
    if int(token.text) == 0:
        raise token.refuse("a size is at least 1")
    return int(token.text)


def check_name(text: str, offset: int = 0) -> str:
    """Return the name of a group or size, templates included. Raises SyntaxProblem."""
    for match in TEMPLATE.finditer(text):
        if not _VALID_TEMPLATE.fullmatch(match[1]):
            raise SyntaxProblem(
                f"{match[0]!r} is not a template",
                offset + match.start(),
                len(match[0]),
                _template_hint(match[1]),
            )
    rest = TEMPLATE.sub("i", text)
    if not re.fullmatch(r"[\w.\-]*[^\W\d][\w.\-]*", rest):
        raise SyntaxProblem(f"{text!r} is not a name or a size", offset, max(1, len(text)))
    return text


def _template_hint(inside: str) -> str:
    known = ("prev", "next")
    steps = inside.split(".")[1:]
    close = [suggest(step, known) for step in steps if step not in known]
    return next(filter(None, close), "templates are {i}, {i.prev}, {i.next}, {first}, {last}")


def templates(name: str) -> tuple[str, ...]:
    """Return what stands between braces in a name: `i.prev` for `c.{i.prev}`."""
    return tuple(TEMPLATE.findall(name))


def dump_expression(tree: AxisExpr) -> str:
    """Return the canonical text: one space around operators, parentheses where they nest.

    A sum that is interleaved has them too, though it needs none: `(a + b) | c`.
    """
    if isinstance(tree, Interleaving):
        return " | ".join(_inside(part, Sum | Interleaving) for part in tree.parts)
    if isinstance(tree, Sum):
        return " + ".join(_inside(segment, Interleaving) for segment in tree.segments)
    if isinstance(tree, Product):
        return " * ".join(_inside(factor, Sum | Interleaving) for factor in tree.factors)
    if isinstance(tree, Named):
        return tree.name
    return "~" if tree.size is None else str(tree.size)


def _inside(tree: AxisExpr, looser: type | UnionType) -> str:
    """Return the text of a part, in parentheses if its operator is one of the looser ones."""
    text = dump_expression(tree)
    return f"({text})" if isinstance(tree, looser) else text
