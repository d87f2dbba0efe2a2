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
        yield from ((gain, _chosen(norms[gain], names, {}), gain) for gain in gains)
        return
    found = _together([_templated(gain, norms[gain], free) for gain in gains])
    if found is not None and _stands_for(*found, gains, norms, free, names):
        pattern, norm = found
        yield pattern, _chosen(norm, names, _variables(gains[0], free)), gains[0]
        return
    # One more index is written out: the one with the fewest values, as the two norms of a layer.
    values = {slot: dict.fromkeys(_indices(gain)[slot] for gain in gains) for slot in free}
    slot = min(free, key=lambda slot: (len(values[slot]), -slot))
    for value in values[slot]:
        some = [gain for gain in gains if _indices(gain)[slot] == value]
        yield from _family(some, norms, free - {slot}, names)


def _together(short: Sequence[tuple[str, Norm]]) -> tuple[str, Norm] | None:
    """Return one pattern and norm, with all readers of any, if they are alike but for these.

    A layer lacks some of them where it has no experts, or nothing but experts.
    """
    (pattern, first), *_ = short
    apart = {(text, replace(norm, readers=(), writers=())) for text, norm in short}
    readers, writers = (
        tuple(dict.fromkeys(name for _, norm in short for name in getattr(norm, key)))
        for key in ("readers", "writers")
    )
    return (pattern, replace(first, readers=readers, writers=writers)) if len(apart) == 1 else None


def _stands_for(
    pattern: str,
    norm: Norm,
    gains: Sequence[str],
    norms: Norms,
    free: frozenset[int],
    names: TensorNames,
) -> bool:
    """Return whether a pattern matches some gains and no other, and each has its own readers."""
    if {m.name for m in matches(compile_pattern(pattern), names)} != set(gains):
        return False

    def present(said: Iterable[str], indices: Mapping[str, str]) -> set[str]:
        filled = (compile_pattern(_filled(text, indices)) for text in said)
        return {match.name for one in filled for match in matches(one, names)}

    def same(gain: str) -> bool:
        indices, own = _variables(gain, free), norms[gain]
        readers = present(norm.readers, indices) == present(own.readers, {})
        return readers and present(norm.writers, indices) == present(own.writers, {})

    return all(map(same, gains))


def _variables(gain: str, free: frozenset[int]) -> dict[str, str]:
    return {_variable(slot): _indices(gain)[slot] for slot in free}


def _indices(name: str) -> list[str]:
    return [index[0] for index in INDEX_IN_NAME.finditer(name)]


def _templated(gain: str, norm: Norm, free: frozenset[int]) -> tuple[str, Norm]:
    """Return a gain and its norm with variables for the indices that both have at one place."""
    known: dict[tuple[str, str], str] = {}
    for slot, index in enumerate(INDEX_IN_NAME.finditer(gain)):
        if slot in free:
            known[_place(gain, index.start()), index[0]] = _variable(slot)

    def written(name: str) -> str:
        return "".join(_pieces(name, known))

    readers = tuple(map(written, norm.readers))
    tied, bias = (name and written(name) for name in (norm.tied, norm.bias))
    return written(gain), replace(norm, readers=readers, tied=tied, bias=bias)


def _variable(slot: int) -> str:
    return f"{{{_VARIABLES[slot]}}}"


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


def _chosen(norm: Norm, names: TensorNames, indices: Mapping[str, str]) -> Norm:
    """Return the norm with its readers and writers as few patterns.

    indices: variable -> what it is in one of the gains that the norm is of.
    """

    def fewer(said: Iterable[str]) -> tuple[str, ...]:
        short = _with_stars(tuple(said), names, indices)
        return tuple(line.pattern for line in choices(_lines(short)))

    return replace(norm, readers=fewer(norm.readers), writers=fewer(norm.writers))


def _with_stars(
    readers: Sequence[str], names: TensorNames, indices: Mapping[str, str]
) -> tuple[str, ...]:
    """Return readers with `*` for an index that the gain lacks, where it stands for all there are.

    Deeper models have more of them: layers that attend to one encoder, experts.
    """
    families: defaultdict[str, list[str]] = defaultdict(list)
    for reader in readers:
        families[INDEX_IN_NAME.sub("*", reader)].append(reader)
    found: list[str] = []
    for starred, members in families.items():
        varying = _varying(members)
        pattern = "".join(_starred(members[0], varying))
        filled = (_filled(text, indices) for text in (pattern, *members))
        wanted, *alone = ({m.name for m in matches(compile_pattern(t), names)} for t in filled)
        found += [pattern] if starred and varying and wanted == set().union(*alone) else members
    return tuple(found)


def _varying(members: Sequence[str]) -> frozenset[int]:
    columns = zip(*map(_indices, members), strict=True)
    return frozenset(slot for slot, column in enumerate(columns) if len(set(column)) > 1)


def _starred(name: str, slots: frozenset[int]) -> Iterator[str]:
    end = 0
    for slot, index in enumerate(INDEX_IN_NAME.finditer(name)):
        yield name[end : index.start()]
        yield "*" if slot in slots else index[0]
        end = index.end()
    yield name[end:]


def _filled(text: str, indices: Mapping[str, str]) -> str:
    for variable, index in indices.items():
        text = text.replace(variable, index)
    return text


def _lines(readers: Iterable[str]) -> list[Line[bool]]:
    return [Line(name, True, (place,)) for place, name in enumerate(readers)]


def _position(name: str, names: TensorNames) -> int:
    return names.position(name) if name in names else -1
