"""The `norms:` of a spec: which gains can be multiplied into the weights that read them."""

from __future__ import annotations

from collections.abc import Iterator

from rebasin_cli.errors import suggest
from rebasin_cli.spec.language.entries import parse_patterns
from rebasin_cli.spec.language.expression import templates
from rebasin_cli.spec.language.model import Norm
from rebasin_cli.spec.language.pattern import compile_pattern
from rebasin_cli.spec.language.spec_fields import Fields
from rebasin_cli.spec.language.yaml_reader import Node, Table, YamlText

SCALE = "scale"
KINDS = ("rms", "layer", SCALE)
_FIELDS = ("kind", "readers", "tied", "one-plus", "bias", "writers")


def parse_norms(node: Node | None, fields: Fields) -> dict[str, Norm]:
    """Return pattern of a gain -> how its norm folds."""
    return dict(_norms(node, fields))


def _norms(node: Node | None, fields: Fields) -> Iterator[tuple[str, Norm]]:
    for key, value in fields.pairs(node, "norms"):
        pattern = fields.attempt(key, compile_pattern)
        norm = _norm(key, value, fields)
        if pattern is not None and norm is not None:
            yield key.text, norm


def _norm(key: YamlText, node: Node, fields: Fields) -> Norm | None:
    found = dict(fields.known(node, _FIELDS)) if isinstance(node, Table) else {}
    if not {"readers", "writers", "tied"} & found.keys():
        hint = f"write `{key.text}: {{kind: rms, readers: [WEIGHT]}}`"
        fields.problems.add("a norm names the weights that read it", node.place, hint=hint)
        return None
    kind = _one_of("kind", found.get("kind"), KINDS, node, fields)
    if kind and (kind == SCALE) != (set(found) == {"kind", "writers"}):
        what = "a scale names its writers, and a norm the weights that read it"
        fields.problems.add(what, node.place)
    readers, writers = (
        parse_patterns(found.get(field), field, fields) for field in ("readers", "writers")
    )
    tied, bias = (fields.text(found.get(field), field) or None for field in ("tied", "bias"))
    _check_indices(key, (*readers, *writers, *(name for name in (tied, bias) if name)), fields)
    one_plus = parse_patterns(found.get("one-plus"), "one-plus", fields)
    return Norm(kind, readers, tied, one_plus, bias, writers) if kind else None


def _one_of(
    key: str, node: Node | None, known: tuple[str, ...], place: Node, fields: Fields
) -> str | None:
    text = node.text if isinstance(node, YamlText) else ""
    if text in known:
        return text
    hint = suggest(text, known) or " or ".join(known)
    fields.problems.add(f"{key!r} of a norm is not {text!r}", (node or place).place, hint=hint)
    return None


def _check_indices(key: YamlText, names: tuple[str, ...], fields: Fields) -> None:
    """Add a problem for each index of a reader that the gain does not have."""
    known = templates(key.text)
    for name in names:
        for template in templates(name):
            if template not in known and "," not in template:
                what = f"unknown index {{{template}}}"
                detail = f"the gain {key.text!r} has no such index"
                fields.problems.add(what, key.place, detail=detail)
