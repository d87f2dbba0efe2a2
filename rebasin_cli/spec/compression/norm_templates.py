"""Norms of repeated layers as one line: a template for their gains, and for what reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from rebasin_cli.spec.compression.choices import Line, choices
from rebasin_cli.spec.language.model import Norm
from rebasin_cli.spec.language.pattern import compile_pattern, matches
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME, TensorNames

_VARIABLES = "ijkmnpqrs"
_MARK = "#"
_FewestLayers = 2

Norms = Mapping[str, Norm]


def short_norms(norms: Norms, names: TensorNames) -> dict[str, Norm]:
    """Return norms with templates that stand for the gains and readers of these names.

    norms: name of a gain -> norm, all by names; what has a pattern already is left as it is.
    """
    families: defaultdict[str, list[str]] = defaultdict(list)
    for gain in norms:
        families[INDEX_IN_NAME.sub(_MARK, gain) if gain in names else gain].append(gain)
    lines: list[Line[Norm]] = []
    for masked, gains in families.items():
        found = _family(gains, norms, frozenset(range(masked.count(_MARK))), names)
        lines += (Line(p, norm, (_position(first, names),)) for p, norm, first in found)
    return {line.pattern: line.meaning for line in choices(lines)}


def _family(
    gains: Sequence[str], norms: Norms, free: frozenset[int], names: TensorNames
) -> Iterator[tuple[str, Norm, str]]:
    """Yield pattern, norm and first gain; free: the indices that may be variables."""
    if len(gains) < _FewestLayers or not free:
        yield from ((gain, _chosen(norms[gain]), gain) for gain in gains)
        return
    short = {_templated(gain, norms[gain], free) for gain in gains}
    if len(short) == 1:
        pattern, norm = next(iter(short))
        if {m.name for m in matches(compile_pattern(pattern), names)} == set(gains):
            yield pattern, _chosen(norm), gains[0]
            return
    # One more index is written out: the one with the fewest values, as the two norms of a layer.
    values = {slot: dict.fromkeys(_indices(gain)[slot] for gain in gains) for slot in free}
    slot = min(free, key=lambda slot: (len(values[slot]), -slot))
    for value in values[slot]:
        some = [gain for gain in gains if _indices(gain)[slot] == value]
        yield from _family(some, norms, free - {slot}, names)


def _indices(name: str) -> list[str]:
    return [index[0] for index in INDEX_IN_NAME.finditer(name)]


def _templated(gain: str, norm: Norm, free: frozenset[int]) -> tuple[str, Norm]:
    """Return a gain and its norm with variables for the indices that both have at one place."""
    known: dict[tuple[str, str], str] = {}
    for slot, index in enumerate(INDEX_IN_NAME.finditer(gain)):
        if slot in free:
            known[_place(gain, index.start()), index[0]] = f"{{{_VARIABLES[slot]}}}"

    def written(name: str) -> str:
        return "".join(_pieces(name, known))

    readers = tuple(map(written, norm.readers))
    tied, bias = (name and written(name) for name in (norm.tied, norm.bias))
    return written(gain), replace(norm, readers=readers, tied=tied, bias=bias)


def _pieces(name: str, known: Mapping[tuple[str, str], str]) -> Iterator[str]:
    end = 0
    for index in INDEX_IN_NAME.finditer(name):
        yield name[end : index.start()]
        yield known.get((_place(name, index.start()), index[0]), index[0])
        end = index.end()
    yield name[end:]


def _place(name: str, start: int) -> str:
    """Return what stands before an index, with earlier indices marked."""
    return INDEX_IN_NAME.sub(_MARK, name[:start])


def _chosen(norm: Norm) -> Norm:
    """Return the norm with its readers as few patterns."""
    lines = _lines(norm.readers)
    return replace(norm, readers=tuple(line.pattern for line in choices(lines)))


def _lines(readers: Iterable[str]) -> list[Line[bool]]:
    return [Line(name, True, (place,)) for place, name in enumerate(readers)]


def _position(name: str, names: TensorNames) -> int:
    return names.position(name) if name in names else -1
