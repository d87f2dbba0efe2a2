"""What reading any part of a spec needs: tables with known keys, and problems in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from rebasin_cli.errors import suggest
from rebasin_cli.spec.language.expression import SyntaxProblem, check_name, templates
from rebasin_cli.spec.language.model import TextPlace
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.spec.language.yaml_reader import Node, Table, YamlText

T = TypeVar("T")


class Fields:
    """The problems found so far, and the places of what was read (`Spec.places`)."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.places: dict[tuple[str, ...], TextPlace] = {}

    def known(self, table: Table, known: tuple[str, ...]) -> Iterator[tuple[str, Node]]:
        """Yield the fields of a table; a key that is not known is a problem."""
        for key, value in table.pairs:
            if key.text in known:
                yield key.text, value
                continue
            hint = suggest(key.text, known) or f"known keys: {', '.join(known)}"
            self.problems.add(f"unknown key {key.text!r}", key.place, hint=hint)

    def pairs(self, node: Node | None, key: str) -> tuple[tuple[YamlText, Node], ...]:
        """Return the content of a table, and remember where its keys stand."""
        if node is not None and not isinstance(node, Table):
            self.problems.add(f"{key!r} must be a table", node.place)
        pairs = node.pairs if isinstance(node, Table) else ()
        self.places.update({(key, name.text): name.place for name, _ in pairs})
        return pairs

    def text(self, node: Node | None, key: str) -> str:
        """Return a text, or nothing if it is missing."""
        if isinstance(node, YamlText):
            return node.text
        if node is not None:
            self.problems.add(f"{key!r} must be text", node.place)
        return ""

    def attempt(self, node: YamlText, call: Callable[[str], T]) -> T | None:
        """Return the call's result for the text; None after a SyntaxProblem, which is placed."""
        try:
            return call(node.text)
        except SyntaxProblem as found:
            place = node.locate(found.offset, found.width)
            self.problems.add(found.what, place, hint=found.hint)
            return None

    def name(self, node: YamlText, indices: tuple[str, ...], why: str) -> str | None:
        """Return the name of a group or size; other indices than these are a problem."""
        name = self.attempt(node, check_name)
        for template in templates(name or ""):
            if template not in indices:
                written = f"{{{template}}}"
                place = node.locate(node.text.index(written), len(written))
                self.problems.add(f"unknown index {written}", place, detail=why)
        return name
