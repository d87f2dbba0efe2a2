"""Spec text to `Spec`: checks everything that can be checked without a checkpoint."""

from __future__ import annotations

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.language.declarations import parse_groups, parse_sizes
from rebasin_cli.spec.language.entries import parse_patterns, parse_tensors
from rebasin_cli.spec.language.model import Spec, TextPlace
from rebasin_cli.spec.language.norms import parse_norms
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.spec.language.spec_fields import Fields
from rebasin_cli.spec.language.yaml_reader import Node, Table, YamlText, read_yaml

VERSION = "1"
KEYS = (
    "rebasin",
    "name",
    "description",
    "buffers",
    "transposed",
    "sizes",
    "groups",
    "tensors",
    "norms",
    "model-types",
)


def parse(text: str, *, source: str = "<spec>") -> Spec:
    """Return the spec that a text describes.

    source: its name in messages. Raises SpecError with every problem of the text.
    """
    text = text.removeprefix("\ufeff")
    problems = Problems(source, text)
    root = read_yaml(text, problems)
    if root is not None and not isinstance(root, Table):
        problems.add("a spec is a table of keys", root.place, hint=f"its keys: {', '.join(KEYS)}")
    if not isinstance(root, Table):
        problems.stop()
        raise SpecError("the spec cannot be read", where=source)
    spec = _spec(root, Fields(problems), source, text)
    problems.stop()
    return spec


def _spec(root: Table, fields: Fields, source: str, text: str) -> Spec:
    nodes = dict(fields.known(root, KEYS))
    _check_version(nodes.get("rebasin"), root.place, fields)
    if "tensors" not in nodes:
        hint = "it says what the axes of each tensor are made of"
        fields.problems.add("key 'tensors' is missing", root.place, hint=hint)
    sizes = parse_sizes(nodes.get("sizes"), fields)
    return Spec(
        tensors=parse_tensors(nodes.get("tensors"), fields),
        name=fields.text(nodes.get("name"), "name"),
        description=fields.text(nodes.get("description"), "description"),
        buffers=parse_patterns(nodes.get("buffers"), "buffers", fields),
        transposed=parse_patterns(nodes.get("transposed"), "transposed", fields),
        sizes=sizes,
        groups=parse_groups(nodes.get("groups"), sizes, fields),
        norms=parse_norms(nodes.get("norms"), fields),
        model_types=parse_patterns(nodes.get("model-types"), "model-types", fields),
        source=source,
        text=text,
        places=fields.places,
    )


def _check_version(node: Node | None, top: TextPlace, fields: Fields) -> None:
    hint = f"write `rebasin: {VERSION}`, the version of the language that is read here"
    if node is None:
        fields.problems.add("key 'rebasin' is missing", top, hint=hint)
    elif not isinstance(node, YamlText) or node.text != VERSION:
        said = f" {node.text!r}" if isinstance(node, YamlText) else ""
        fields.problems.add(f"unknown version{said} of the language", node.place, hint=hint)
