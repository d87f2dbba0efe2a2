"""The names of an explicit spec in families that differ in indices only, each with its rules.

A template never speaks for names of two families, so each family is a problem of its own, and can
be written long while others are short.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rebasin_cli.spec.compression.choices import Line
from rebasin_cli.spec.compression.cover import NameRule, cover, explicit
from rebasin_cli.spec.compression.forms import Forms, fill_form
from rebasin_cli.spec.compression.items import AXIS_OF_NAMES, families_of
from rebasin_cli.spec.language.model import Spec, entry_names
from rebasin_cli.spec.language.pattern import compile_pattern, matches
from rebasin_cli.spec.language.tensor_names import TensorNames

_SPECIAL = re.compile(r"[{}\[\]*]|\?$")


@dataclass(frozen=True, eq=False)
class TemplateFamily:
    """Names that differ in indices only; short and long: with and without templates.

    key: where the lines stand: `tensors`, `groups`, `buffers` or `transposed`.
    templated: the groups in the entries of the tensors that templates speak for.
    """

    key: str
    short: tuple[Line[Any], ...]
    long: tuple[Line[Any], ...]
    templated: frozenset[str] = frozenset()


def is_name(key: str) -> bool:
    """Return whether a key is one tensor's name, or one stack's: `experts.[e].weight`."""
    return not _SPECIAL.search(AXIS_OF_NAMES.sub("", key, count=1))


def tensor_families(spec: Spec, names: TensorNames) -> list[TemplateFamily]:
    """Return the families of all tensors that have an entry of their own."""
    # Names of sizes keep their digits: a size belongs to the spec, not to a layer.
    forms = Forms(frozenset(spec.sizes))
    said = {key: forms.take(entry) for key, entry in spec.tensors.items() if is_name(key)}
    families = []
    for items in families_of(said, names.order, names=names):
        short = cover(items)
        # What single lines say is no row of layers, of which `{last}` could be the last.
        alone = {rule.pattern for rule in short if rule.single}
        covered = (item.text for item in items if item.form is not None)
        groups = (
            group for n in covered if n not in alone for group in entry_names(spec.tensors[n])
        )
        lines = _lines(short), _lines(explicit(items))
        families.append(TemplateFamily("tensors", *lines, frozenset(groups)))
    return families


def group_families(spec: Spec, groups: Iterable[str]) -> list[TemplateFamily]:
    """Return the families of declared groups, none if some are declared by templates.

    groups: all there are. One that is not declared is a name without a meaning, which no
    template may match: it would be declared by it.
    """
    if not all(map(is_name, spec.groups)):
        return []
    forms = Forms()
    said = {name: forms.take(declared) for name, declared in spec.groups.items()}
    found = families_of(said, groups)
    return [
        TemplateFamily("groups", _lines(cover(items)), _lines(explicit(items))) for items in found
    ]


def list_families(spec: Spec, names: TensorNames) -> list[TemplateFamily]:
    """Return the families of the names in `buffers` and `transposed`."""
    return [
        family
        for key, patterns in (("buffers", spec.buffers), ("transposed", spec.transposed))
        for family in _list(key, matched_names(patterns, names), names)
    ]


def matched_names(patterns: Sequence[str], names: TensorNames) -> frozenset[str]:
    """Return the names that any of the patterns matches."""
    return frozenset(m.name for text in patterns for m in matches(compile_pattern(text), names))


def _list(key: str, listed: frozenset[str], names: TensorNames) -> Iterator[TemplateFamily]:
    if not listed or any(_SPECIAL.search(name) for name in listed):
        return
    globs = dict(_globs(listed, names)) if key == "buffers" else {}
    for glob, members in globs.items():
        lines = [Line(name, True, (names.position(name),)) for name in members]
        yield TemplateFamily(key, (Line(glob, True, lines[0].order),), tuple(lines))
    done = {name for members in globs.values() for name in members}
    forms = Forms()
    said = {name: forms.take(True) for name in names.order if name in listed - done}
    for items in families_of(said, names.order, names=names):
        yield TemplateFamily(key, _lines(cover(items)), _lines(explicit(items)))


def _globs(listed: frozenset[str], names: TensorNames) -> Iterator[tuple[str, list[str]]]:
    """Yield `*.running_mean` and the names that it stands for, where all of them are listed.

    Only for the last component of names that some of them have in common. For buffers alone: an
    ending such as `.running_mean` tells them, and no ending tells what is transposed.
    """
    by_ending: defaultdict[str, list[str]] = defaultdict(list)
    for name in names.order:
        before, dot, ending = name.rpartition(".")
        if before and not _SPECIAL.search(ending):
            by_ending[dot + ending].append(name)
    for ending, members in by_ending.items():
        if len(members) > 1 and listed.issuperset(members):
            yield f"*{ending}", members


def _lines(rules: Iterable[NameRule]) -> tuple[Line[Any], ...]:
    return tuple(
        Line(r.pattern, fill_form(r.form.masked, r.texts), (r.position, -r.free, r.single))
        for r in rules
    )
