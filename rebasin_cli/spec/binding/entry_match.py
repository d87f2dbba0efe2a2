"""Which entry of a spec speaks for which tensors, with templates replaced by indices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.spec.language.model import Axes, Spec, TextPlace
from rebasin_cli.spec.language.pattern import Pattern, PatternMatch, compile_pattern, matches
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.spec.language.tensor_names import TensorNames
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.wording import list_names

_SHOWN = 8  # indices in a message
_OPTIONAL_HINT = "write `{text}?` if a model may lack it"


@dataclass(frozen=True)
class Matched:
    """One tensor, or one stack of tensors, and the pattern that speaks for it.

    match: that of the first member. shape: of the stack if it is one.
    """

    pattern: Pattern
    match: PatternMatch
    members: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        return self.pattern.names_axis is not None


@dataclass(frozen=True)
class Placement:
    """A matched tensor with concrete axis expressions: one for each axis of each part.

    Names in the expressions are groups, sizes, or `~k` for the k-th fixed axis of any size.
    split: the axis that is cut, if there are several parts.
    """

    members: tuple[str, ...]
    stacked: bool
    shape: tuple[int, ...]
    split: int | None
    parts: tuple[Axes, ...]
    at: TextPlace | None


def match_tensors(
    spec: Spec, infos: Mapping[str, TensorInfo], names: TensorNames, problems: Problems
) -> list[Matched]:
    """Return the tensors and stacks that the spec names, in checkpoint order."""
    winners = _winners(spec, names, problems)
    stacks: defaultdict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    found: dict[str, Matched] = {}
    for name in names.order:
        if name not in winners:
            continue
        pattern, match = winners[name]
        if match.stack is None:
            found[name] = Matched(pattern, match, (name,), infos[name].shape)
        else:
            before, after, index = match.stack
            stacks[pattern.text, before, after][index] = name
    for (text, before, after), members in stacks.items():
        order = tuple(members[index] for index in sorted(members))
        place, label = spec.places.get(("tensors", text)), f"{before}[...]{after}"
        uniform = _stackable([infos[n] for n in order], label, place, problems)
        if not (_complete(sorted(members), label, place, problems) and uniform):
            problems.doubt(spec.tensors[text])
            continue
        pattern, match = winners[order[0]]
        shape = (len(order), *infos[order[0]].shape)
        found[min(order, key=names.position)] = Matched(pattern, match, order, shape)
    return [found[name] for name in names.order if name in found]


def matching_names(
    spec: Spec, key: str, patterns: Sequence[str], names: TensorNames, problems: Problems
) -> frozenset[str]:
    """Return the names that any of the patterns under a key (`buffers`) matches."""
    found: set[str] = set()
    for text in patterns:
        pattern = compile_pattern(text)
        matched = [match.name for match in matches(pattern, names)]
        found.update(matched)
        if not (matched or pattern.optional):
            _no_match(text, spec.places.get((key, text)), names, problems)
    return frozenset(found)


def _winners(
    spec: Spec, names: TensorNames, problems: Problems
) -> dict[str, tuple[Pattern, PatternMatch]]:
    """Return the most specific pattern's match for each name."""
    found: defaultdict[str, list[tuple[Pattern, PatternMatch]]] = defaultdict(list)
    for text in spec.tensors:
        pattern, anything = compile_pattern(text), False
        for match in matches(pattern, names):
            found[match.name].append((pattern, match))
            anything = True
        if not anything and pattern.optional:
            problems.excuse(spec.tensors[text])
        elif not anything:
            problems.doubt(spec.tensors[text])
            _no_match(text, spec.places.get(("tensors", text)), names, problems)
    best: dict[str, tuple[Pattern, PatternMatch]] = {}
    for name, candidates in found.items():
        rank = min(pattern.rank for pattern, _ in candidates)
        first, *others = [c for c in candidates if c[0].rank == rank]
        best[name] = first
        for other, _ in others:
            _equally_specific(spec, name, first[0], other, problems)
    return best


def _equally_specific(
    spec: Spec, name: str, first: Pattern, second: Pattern, problems: Problems
) -> None:
    other = spec.places.get(("tensors", first.text))
    line = f" (line {other.line})" if other else ""
    problems.add(
        f"two equally specific patterns match {name!r}",
        spec.places.get(("tensors", second.text)),
        detail=f"{first.text!r}{line} and {second.text!r}",
        hint="write the name out in a third entry, or narrow one of the two",
        kind=f"equal {first.text}",
    )


def _no_match(text: str, place: TextPlace | None, names: TensorNames, problems: Problems) -> None:
    hint = " or ".join(filter(None, (names.close_to(text), _OPTIONAL_HINT.format(text=text))))
    problems.add(f"pattern {text!r} matches no tensor", place, hint=hint, kind="no match")


def _stackable(
    members: Sequence[TensorInfo], label: str, place: TextPlace | None, problems: Problems
) -> bool:
    first = members[0]
    odd = [m for m in members if (m.shape, m.dtype) != (first.shape, first.dtype)]
    for info in odd[:1]:
        problems.add(
            f"the tensors of {label!r} differ, so they cannot be stacked",
            place,
            detail=f"{_describe_info(first)}, {_describe_info(info)}",
            kind="differ",
        )
    return not odd


def _complete(
    indices: Sequence[int], label: str, place: TextPlace | None, problems: Problems
) -> bool:
    missing = next((k for k, index in enumerate(indices) if k != index), None)
    if missing is not None:
        problems.add(
            f"the names of {label!r} have a gap: there is no {missing}",
            place,
            detail=f"found {_some_of(indices)}",
            hint="an axis of names counts 0, 1, 2, ... without gaps",
            kind="gap",
        )
    return missing is None


def _describe_info(info: TensorInfo) -> str:
    return f"{info.name} is {str(info.dtype).removeprefix('torch.')} {list(info.shape)}"


def _some_of(indices: Sequence[int]) -> str:
    return list_names([str(index) for index in indices], _SHOWN, rest=f", ... {indices[-1]}")
