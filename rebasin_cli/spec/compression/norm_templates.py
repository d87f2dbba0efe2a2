"""Norms of repeated layers as one line: a template for their gains, and for what reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rebasin_cli.spec.compression.choices import Line, with_choices
from rebasin_cli.spec.compression.items import VARIABLES
from rebasin_cli.spec.language.model import Norm
from rebasin_cli.spec.language.pattern import compile_pattern, matches
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME, TensorNames

_MARK = "#"
_FEWEST = 2  # layers that make a template

Variables = Mapping[str, str]  # variable -> the index that it stands for in one gain


def short_norms(norms: Mapping[str, Norm], names: TensorNames) -> dict[str, Norm]:
    """Return norms with templates that stand for the gains and readers of these names.

    norms: name of a gain -> norm, all by names; what has a pattern already is left as it is.
    """
    families: defaultdict[str, list[str]] = defaultdict(list)
    for gain in norms:
        families[INDEX_IN_NAME.sub(_MARK, gain) if gain in names else gain].append(gain)
    found = _NormFamilies(norms, names)
    lines = [
        line
        for masked, gains in families.items()
        for line in found.lines(gains, frozenset(range(masked.count(_MARK))))
    ]
    return {line.pattern: line.meaning for line in with_choices(lines)}


@dataclass(frozen=True)
class _NormFamilies:
    """Norms by the names of gains, and the names of all tensors."""

    norms: Mapping[str, Norm]
    names: TensorNames

    def lines(self, gains: Sequence[str], free: frozenset[int]) -> Iterator[Line[Norm]]:
        """Yield patterns for gains that differ in indices; free: those that may be variables."""
        if len(gains) < _FEWEST or not free:
            yield from (self._line(gain, self.norms[gain], gain, {}) for gain in gains)
            return
        short = _together([_templated(gain, self.norms[gain], free) for gain in gains])
        if short is not None and self._right(*short, gains, free):
            yield self._line(*short, gains[0], _variables(gains[0], free))
            return
        # One more index is written out: the one with the fewest values, as of two norms a layer.
        values = {slot: dict.fromkeys(_indices(gain)[slot] for gain in gains) for slot in free}
        slot = min(free, key=lambda slot: (len(values[slot]), -slot))
        for value in values[slot]:
            some = [gain for gain in gains if _indices(gain)[slot] == value]
            yield from self.lines(some, free - {slot})

    def _line(self, pattern: str, norm: Norm, gain: str, known: Variables) -> Line[Norm]:
        """Return a line with readers and writers as few patterns. gain: the first it is for."""

        def fewer(said: Sequence[str]) -> tuple[str, ...]:
            short = [Line(name, True, (k,)) for k, name in enumerate(self._with_stars(said, known))]
            return tuple(line.pattern for line in with_choices(short))

        meaning = replace(norm, readers=fewer(norm.readers), writers=fewer(norm.writers))
        place = self.names.position(gain) if gain in self.names else -1
        return Line(pattern, meaning, (place,))

    def _right(self, pattern: str, norm: Norm, gains: Sequence[str], free: frozenset[int]) -> bool:
        """Return whether a pattern matches some gains and no other, and each has its readers."""
        if self._matched([pattern], {}) != set(gains):
            return False

        def same(gain: str) -> bool:
            known, own = _variables(gain, free), self.norms[gain]
            readers = self._matched(norm.readers, known) == self._matched(own.readers, {})
            return readers and self._matched(norm.writers, known) == self._matched(own.writers, {})

        return all(map(same, gains))

    def _matched(self, patterns: Iterable[str], known: Variables) -> set[str]:
        filled = (compile_pattern(_fill_indices(text, known)) for text in patterns)
        return {match.name for one in filled for match in matches(one, self.names)}

    def _with_stars(self, readers: Sequence[str], known: Variables) -> Iterator[str]:
        """Yield readers, with `*` for an index that the gain lacks if every one of them reads it.

        Deeper models have more of them: layers that attend to one encoder, experts.
        """
        families: defaultdict[str, list[str]] = defaultdict(list)
        for reader in readers:
            families[INDEX_IN_NAME.sub(_MARK, reader)].append(reader)
        for members in families.values():
            columns = enumerate(zip(*map(_indices, members), strict=True))
            varying = {slot for slot, column in columns if len(set(column)) > 1}
            starred = _replaced(members[0], dict.fromkeys(varying, "*"))
            right = self._matched([starred], known) == self._matched(members, known)
            yield from [starred] if varying and right else members


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


def _variable(slot: int) -> str:
    return f"{{{VARIABLES[slot]}}}"


def _variables(gain: str, free: frozenset[int]) -> dict[str, str]:
    return {_variable(slot): _indices(gain)[slot] for slot in free}


def _fill_indices(text: str, known: Variables) -> str:
    for variable, index in known.items():
        text = text.replace(variable, index)
    return text


def _indices(name: str) -> list[str]:
    return [index[0] for index in INDEX_IN_NAME.finditer(name)]


def _templated(gain: str, norm: Norm, free: frozenset[int]) -> tuple[str, Norm]:
    """Return a gain and its norm with variables for the indices that both have at one place."""
    known = {
        (_place(gain, index.start()), index[0]): _variable(slot)
        for slot, index in enumerate(INDEX_IN_NAME.finditer(gain))
        if slot in free
    }

    def written(name: str) -> str:
        found = (known.get((_place(name, i.start()), i[0])) for i in INDEX_IN_NAME.finditer(name))
        return _replaced(name, {slot: text for slot, text in enumerate(found) if text})

    readers, writers = (tuple(map(written, said)) for said in (norm.readers, norm.writers))
    tied, bias = (name and written(name) for name in (norm.tied, norm.bias))
    made = replace(norm, readers=readers, writers=writers, tied=tied, bias=bias)
    return written(gain), made


def _place(name: str, start: int) -> str:
    """Return what stands before an index, with earlier indices marked."""
    return INDEX_IN_NAME.sub(_MARK, name[:start])


def _replaced(name: str, texts: Mapping[int, str]) -> str:
    """Return a name with texts in the place of some of its indices."""
    slots = iter(range(len(_indices(name))))

    def change(slot: int, index: str) -> str:
        return texts.get(slot, index)

    return INDEX_IN_NAME.sub(lambda index: change(next(slots), index[0]), name)
