"""`Spec` to canonical text: what `parse` reads back as an equal spec."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rebasin_cli.spec.language.expression import dump_expression
from rebasin_cli.spec.language.model import PERMUTATION, Axes, Declaration, Entry, Norm, Spec, Split
from rebasin_cli.spec.language.parse import VERSION

# Text that every YAML reader takes as it stands, in a flow list and as a key of a block.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*|~", re.ASCII)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-{},\[\]*]*\??", re.ASCII)
_LONGEST_KEY = 1000  # YAML ends an implicit key after 1024 characters
_LAST_LATIN, _LAST_SHORT = 0xFF, 0xFFFF


def dump(spec: Spec) -> str:
    """Return the canonical YAML text of a spec; comments of its source are not in it."""
    return "".join(f"{line}\n" for line in _lines(spec))


def _lines(spec: Spec) -> Iterator[str]:
    yield f"rebasin: {VERSION}"
    for key in ("name", "description"):
        if getattr(spec, key):
            yield f"{key}: {scalar(getattr(spec, key))}"
    for key in ("buffers", "transposed"):
        if getattr(spec, key):
            yield f"{key}: [{', '.join(map(scalar, getattr(spec, key)))}]"
    if spec.model_types:
        yield f"model-types: [{', '.join(map(scalar, spec.model_types))}]"
    if spec.sizes:
        yield f"sizes: {_table(spec.sizes)}"
    if spec.groups:
        yield "groups:"
        yield from (f"  {key_text(k)}: {_declaration(d)}" for k, d in spec.groups.items())
    yield "tensors:"
    yield from (f"  {key_text(k)}: {_entry(entry)}" for k, entry in spec.tensors.items())
    if spec.norms:
        yield "norms:"
        yield from (f"  {key_text(k)}: {_norm(norm)}" for k, norm in spec.norms.items())


def scalar(text: str) -> str:
    """Return YAML for a text, in quotes if it needs them."""
    return text if _PLAIN.fullmatch(text) and text not in ("~", "null") else _quote(text)


def key_text(text: str) -> str:
    """Return YAML for a key of a block, such as a name pattern."""
    written = text if _PLAIN_KEY.fullmatch(text) and text != "null" else _quote(text)
    return f"? {written}\n  " if len(written) > _LONGEST_KEY else written


def _quote(text: str) -> str:
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    if code <= _LAST_LATIN:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LAST_SHORT else f"\\U{code:08x}"


def _table(values: Mapping[str, int | str]) -> str:
    return "{" + ", ".join(f"{scalar(k)}: {scalar(str(v))}" for k, v in values.items()) + "}"


def _declaration(declaration: Declaration) -> str:
    flags = {"fixed": declaration.fixed, "one-sided": declaration.one_sided}
    true = {key: "true" for key, flag in flags.items() if flag}
    maps = {} if declaration.maps == PERMUTATION else {"maps": declaration.maps}
    fields = {"size": declaration.size, "per": declaration.per, **true, **maps}
    said = {key: value for key, value in fields.items() if value is not None}
    return _table(said or {"fixed": "false"})


def _norm(norm: Norm) -> str:
    lists = {"readers": norm.readers, "writers": norm.writers, "one-plus": norm.one_plus}
    told = {key: f"[{', '.join(map(scalar, names))}]" for key, names in lists.items() if names}
    names = {"tied": norm.tied, "bias": norm.bias}
    told |= {key: scalar(name) for key, name in names.items() if name}
    order = ("readers", "writers", "tied", "bias", "one-plus")
    rest = "".join(f", {key}: {told[key]}" for key in order if key in told)
    return f"{{kind: {norm.kind}{rest}}}"


def _entry(entry: Entry) -> str:
    if isinstance(entry, Split):
        return f"{{split: {entry.axis}, parts: [{', '.join(map(_axes, entry.parts))}]}}"
    return _axes(entry)


def _axes(axes: Axes) -> str:
    texts = map(dump_expression, axes)
    return f"[{', '.join(text if text == '~' else scalar(text) for text in texts)}]"
