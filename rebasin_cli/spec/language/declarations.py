"""The `sizes:` and `groups:` of a spec."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rebasin_cli.errors import suggest
from rebasin_cli.spec.language.expression import MAX_DIGITS, templates
from rebasin_cli.spec.language.model import CLASSES, PERMUTATION, Declaration
from rebasin_cli.spec.language.pattern import END
from rebasin_cli.spec.language.spec_fields import Fields
from rebasin_cli.spec.language.yaml_reader import Node, Table, YamlText

_TRUTH = {"true": True, "false": False}
_CONFIG_PATH = re.compile(r"config(\.[^\s.]+)+")


def parse_sizes(node: Node | None, fields: Fields) -> dict[str, int | str]:
    """Return name -> number or `config.` path."""
    return dict(_sizes(node, fields))


def _sizes(node: Node | None, fields: Fields) -> Iterator[tuple[str, int | str]]:
    for key, value in fields.pairs(node, "sizes"):
        name = fields.name(key, (), "the name of a size has none")
        size = _size(value, (), fields)
        if name is not None and size is not None:
            yield name, size


def _size(node: Node, names: tuple[str, ...], fields: Fields) -> int | str | None:
    text = node.text if isinstance(node, YamlText) else ""
    if re.fullmatch("[0-9]+", text) and len(text) <= MAX_DIGITS and int(text):
        return int(text)
    if text in names or _CONFIG_PATH.fullmatch(text):
        return text
    also = ", a name from `sizes:`" if names else ""
    what = f"a size is a positive number{also} or a path such as config.hidden_size"
    fields.problems.add(what, node.place, hint=suggest(text, names))
    return None


def parse_groups(
    node: Node | None, sizes: Mapping[str, int | str], fields: Fields
) -> dict[str, Declaration]:
    """Return group name, with templates -> declaration."""
    return dict(_groups(node, sizes, fields))


def _groups(
    node: Node | None, sizes: Mapping[str, int | str], fields: Fields
) -> Iterator[tuple[str, Declaration]]:
    for key, value in fields.pairs(node, "groups"):
        name = fields.name(key, _indices(key.text), "a group declaration has only {i}")
        declaration = _declaration(key.text, value, tuple(sizes), fields)
        if key.text in sizes:
            what = f"{key.text!r} is declared as a size and as a group"
            fields.problems.add(what, key.place)
        if name is not None and declaration is not None:
            yield name, declaration


def _indices(text: str) -> tuple[str, ...]:
    return tuple(t for t in templates(text) if "." not in t and not END.fullmatch(t))


def _declaration(
    key: str, node: Node, sizes: tuple[str, ...], fields: Fields
) -> Declaration | None:
    pairs = node.pairs if isinstance(node, Table) else ()
    known = ("size", "per", "fixed", "one-sided", "maps")
    found = dict(fields.known(node, known)) if isinstance(node, Table) else {}
    if not pairs:
        hint = f"write `{key}: {{size: 4}}` or `{key}: {{per: PARENT}}`"
        what = "a group declares its size, its parent or that it is fixed"
        fields.problems.add(what, node.place, hint=hint)
        return None
    size = _size(found["size"], sizes, fields) if "size" in found else None
    parent = _parent(key, found["per"], fields) if "per" in found else None
    fixed, one_sided = (
        key in found and _truth(key, found[key], fields) for key in ("fixed", "one-sided")
    )
    maps = _class(found["maps"], fields) if "maps" in found else PERMUTATION
    return Declaration(size, parent, fixed, one_sided, maps)


def _class(node: Node, fields: Fields) -> str:
    text = node.text if isinstance(node, YamlText) else ""
    if text not in CLASSES:
        hint = suggest(text, CLASSES) or ", ".join(CLASSES)
        fields.problems.add("'maps' is the name of a class of maps", node.place, hint=hint)
    return text


def _truth(key: str, node: Node, fields: Fields) -> bool:
    text = node.text if isinstance(node, YamlText) else ""
    if text not in _TRUTH:
        fields.problems.add(f"{key!r} is true or false", node.place)
    return _TRUTH.get(text, False)


def _parent(key: str, node: Node, fields: Fields) -> str | None:
    if not isinstance(node, YamlText):
        hint = "nesting comes from the parent's own `per`"
        fields.problems.add("a group has one parent", node.place, hint=hint)
        return None
    fields.places["groups", key, "per"] = node.place
    return fields.name(node, _indices(key), f"the group {key!r} has no such index")
