"""The `tensors:` of a spec, and its lists of name patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rebasin_cli.errors import suggest
from rebasin_cli.spec.language.expression import parse_expression, templates
from rebasin_cli.spec.language.model import (
    Axes,
    AxisExpr,
    Entry,
    Fixed,
    Named,
    Split,
    axes_of,
    leaves,
)
from rebasin_cli.spec.language.pattern import END, Pattern, compile_pattern
from rebasin_cli.spec.language.spec_fields import Fields
from rebasin_cli.spec.language.yaml_reader import Items, Node, Table, YamlText

_NULL = ("", "~", "null")
_FEWEST_PARTS = 2


def parse_patterns(node: Node | None, key: str, fields: Fields) -> tuple[str, ...]:
    """Return a list of name patterns."""
    return tuple(_patterns(node, key, fields))


def _patterns(node: Node | None, key: str, fields: Fields) -> Iterator[str]:
    if node is not None and not isinstance(node, Items):
        fields.problems.add(f"{key!r} must be a list of name patterns", node.place)
    for item in node.items if isinstance(node, Items) else ():
        if not isinstance(item, YamlText):
            fields.problems.add("a name pattern must be text", item.place)
        elif fields.attempt(item, compile_pattern):
            fields.places[key, item.text] = item.place
            yield item.text


def parse_tensors(node: Node | None, fields: Fields) -> dict[str, Entry]:
    """Return name pattern -> entry."""
    return dict(_tensors(node, fields))


def _tensors(node: Node | None, fields: Fields) -> Iterator[tuple[str, Entry]]:
    pairs = fields.pairs(node, "tensors")
    if isinstance(node, Table) and not pairs:
        fields.problems.add("'tensors' names no tensor", node.place)
    for key, value in pairs:
        pattern = fields.attempt(key, compile_pattern)
        entry = _entry(value, fields)
        if pattern is not None and entry is not None:
            _check_indices(pattern, entry, fields)
            _check_names_axis(pattern, entry, value, fields)
            yield key.text, entry


def _entry(node: Node, fields: Fields) -> Entry | None:
    if isinstance(node, Items):
        return _axes(node, fields)
    if isinstance(node, Table):
        return _split(node, fields)
    hint = f"write [{node.text}]" if node.text else "write [~, GROUP], or [~] for a fixed tensor"
    fields.problems.add("an entry is a list of axis expressions", node.place, hint=hint)
    return None


def _axes(node: Items, fields: Fields) -> Axes | None:
    axes = [_axis(item, fields) for item in node.items]
    found = tuple(axis for axis in axes if axis is not None)
    return found if len(found) == len(axes) else None


def _axis(node: Node, fields: Fields) -> AxisExpr | None:
    if not isinstance(node, YamlText):
        fields.problems.add("an axis expression must be text", node.place)
        return None
    if node.plain and node.text in _NULL:
        return Fixed(None, node.place)
    return fields.attempt(node, lambda text: parse_expression(text, node.locate))


def _split(node: Table, fields: Fields) -> Split | None:
    found = dict(fields.known(node, ("split", "parts")))
    if len(found) < len(node.pairs):
        return None
    axis, parts = found.get("split"), found.get("parts")
    if not (isinstance(axis, YamlText) and re.fullmatch("[0-9]", axis.text)):
        place = axis.place if axis else node.place
        fields.problems.add("'split' must be the number of an axis, from 0", place)
        axis = None
    if not isinstance(parts, Items) or len(parts.items) < _FEWEST_PARTS:
        place = parts.place if parts else node.place
        fields.problems.add("'parts' must list the axes of two or more parts", place)
        return None
    lists = [_part(item, fields) for item in parts.items]
    good = tuple(part for part in lists if part is not None)
    complete = len(good) == len(lists)
    return Split(int(axis.text), good) if isinstance(axis, YamlText) and complete else None


def _part(node: Node, fields: Fields) -> Axes | None:
    if isinstance(node, Items):
        return _axes(node, fields)
    fields.problems.add("a part is a list of axis expressions", node.place)
    return None


def _check_indices(pattern: Pattern, entry: Entry, fields: Fields) -> None:
    for leaf in (leaf for axes in axes_of(entry) for axis in axes for leaf in leaves(axis)):
        for template in templates(leaf.name) if isinstance(leaf, Named) else ():
            why = _unknown(template, pattern)
            if why:
                hint = suggest(template, pattern.indices)
                what = f"unknown index {{{template}}}"
                fields.problems.add(what, leaf.at, detail=why, hint=hint)


def _unknown(template: str, pattern: Pattern) -> str:
    """Return why an index in a group name means nothing for this pattern, or an empty text."""
    variable = template.partition(".")[0]
    if variable in pattern.indices:
        return ""
    if not END.fullmatch(template):
        return f"the pattern {pattern.text!r} has no {{{variable}}}"
    unclear = len(pattern.ends) + len(pattern.indices)
    if unclear == 0 or len(pattern.ends) == 1 or len(pattern.indices) == 1:
        return ""
    return f"the pattern {pattern.text!r} has several indices that {{{template}}} could be one of"


def _check_names_axis(pattern: Pattern, entry: Entry, node: Node, fields: Fields) -> None:
    if pattern.names_axis is None:
        return
    if isinstance(entry, Split) or not entry or not isinstance(entry[0], Named):
        what = "the first axis of a pattern with an axis of names must be one group"
        fields.problems.add(what, node.place, hint="experts.[e].weight: [expert, ~, ~]")
