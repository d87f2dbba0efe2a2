"""An explicit spec, an entry for each tensor, to the short one that people can read.

Templates are guessed at from the names of one model and proved on the same: a short spec is taken
only if binding it finds the tensors, groups and buffers that binding the long one found, and if
its text is read back as it was. What decides on templates may therefore be a guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.ties import Ties
from rebasin_cli.spec.compression.choices import Line, with_choices
from rebasin_cli.spec.compression.forms import plain_entry
from rebasin_cli.spec.compression.last_layer import TemplateGroups
from rebasin_cli.spec.compression.norm_templates import short_norms
from rebasin_cli.spec.compression.template_families import (
    TemplateFamily,
    group_families,
    is_name,
    list_families,
    tensor_families,
)
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import Norm, Spec, entry_names
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.language.pattern import compile_pattern, matches
from rebasin_cli.spec.language.tensor_names import TensorNames
from rebasin_cli.tensors import TensorInfo

M = TypeVar("M")


def compress(
    spec: Spec, infos: Mapping[str, TensorInfo], *, ties: Mapping[str, str] | None = None
) -> Spec:
    """Return a spec with templates and choices that says the same of these tensors.

    spec: an entry for each name (`[e]` in it is an axis of names); what has other patterns is left
    as it is. infos, ties: as for `bind`, which finds the same tensors, groups and buffers for both
    specs. What cannot be written shorter without changing these stays explicit.
    Raises SpecError if the spec does not bind.
    """
    wanted = bind(spec, infos, ties=ties)
    stored = Ties(infos, ties or {}).infos
    names = TensorNames(stored)
    tidy = _tidy(spec, stored, short_norms(spec.norms, names))
    tensors = tensor_families(tidy, names)
    families = [*tensors, *group_families(tidy, wanted.groups), *list_families(tidy, names)]

    def written(chosen: Sequence[TemplateFamily]) -> Spec:
        return _written(tidy, families, frozenset(chosen), names)

    def right(chosen: Sequence[TemplateFamily]) -> bool:
        return _says_the_same(written(chosen), wanted, infos, ties or {})

    # Where all families are right at once, two specs are bound and no more.
    if right(families):
        return written(families)
    # Not even all families written long: then tidying has changed something, and it is left out.
    return written(_largest(families, right)) if right(()) else spec


def _tidy(spec: Spec, infos: Mapping[str, TensorInfo], norms: Mapping[str, Norm]) -> Spec:
    ranks = {name: len(info.shape) for name, info in infos.items()}
    tensors = {name: plain_entry(entry, ranks.get(name, 1)) for name, entry in spec.tensors.items()}
    return replace(spec, tensors=tensors, norms=norms, source="<spec>", text="", places={})


def _written(
    spec: Spec,
    families: Sequence[TemplateFamily],
    short: frozenset[TemplateFamily],
    names: TensorNames,
) -> Spec:
    """Return the spec with the lines of families, the short ones of some."""
    templated = {name for family in families if family in short for name in family.templated}
    made = TemplateGroups(
        (n for entry in spec.tensors.values() for n in entry_names(entry)), templated
    )
    lines: defaultdict[str, list[Line[Any]]] = defaultdict(list)
    for family in families:
        own = family.short if family in short else family.long
        if family.key == "tensors" and family in short:
            own = tuple(made.with_last(line, spec.sizes) for line in own)
        lines[family.key] += own

    def listed(key: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(line.pattern for line in with_choices(lines[key])) or otherwise

    tensors = [*with_choices(lines["tensors"]), *_left(spec, names)]
    return replace(
        spec,
        tensors=_table(tensors),
        groups=_table(lines["groups"]) or spec.groups,
        buffers=listed("buffers", spec.buffers),
        transposed=listed("transposed", spec.transposed),
    )


def _table(lines: Sequence[Line[M]]) -> dict[str, M]:
    return {line.pattern: line.meaning for line in sorted(lines, key=lambda line: line.order)}


def _left(spec: Spec, names: TensorNames) -> Iterator[Line[Any]]:
    """Yield the entries with patterns of their own, at the first tensor that they match."""
    for key, entry in spec.tensors.items():
        if not is_name(key):
            found = matches(compile_pattern(key), names)
            position = min((names.position(match.name) for match in found), default=-1)
            yield Line(key, entry, (position,))


def _says_the_same(
    spec: Spec, wanted: BoundSpec, infos: Mapping[str, TensorInfo], ties: Mapping[str, str]
) -> bool:
    try:
        found, again = bind(spec, infos, ties=ties), parse(dump(spec))
    except SpecError:
        return False
    groups = tuple(found.groups.items()) == tuple(wanted.groups.items())
    tensors = (found.tensors, found.untouched) == (wanted.tensors, wanted.untouched)
    norms = {norm.gain: norm for norm in found.norms} == {norm.gain: norm for norm in wanted.norms}
    return again == spec and groups and tensors and norms and found.buffers == wanted.buffers


def _largest(
    families: Sequence[TemplateFamily], right: Callable[[Sequence[TemplateFamily]], bool]
) -> list[TemplateFamily]:
    """Return families that can be written short together, as many as halving finds.

    Asked of families together, since they share groups and the order of these. With f families
    of which b are wrong it takes some b log f bindings, where one by one takes f.
    """
    kept: list[TemplateFamily] = []
    waiting = [list(families)]
    while waiting:
        some = waiting.pop()
        if right([*kept, *some]):
            kept += some
        elif len(some) > 1:
            middle = len(some) // 2
            waiting += [some[middle:], some[:middle]]
    return kept
