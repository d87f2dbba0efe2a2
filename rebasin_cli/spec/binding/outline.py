"""How far a spec is from a checkpoint, from names alone: quick, and never too pessimistic.

Names are compared by their outlines, the name with `#` for each number in it. A large checkpoint
has a few dozen of them, so that a whole library of specs can be ruled out before one is bound.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.pattern import compile_pattern, matches, pattern_pieces
from rebasin_cli.spec.language.tensor_names import TensorNames
from rebasin_cli.tensors import TensorInfo

_NUMBER = re.compile("[0-9]+")


# Optional, since several parts of a pattern can make one number: `conv{1,2}0`, `x2*1`.
_ANY = "#?"


@dataclass(frozen=True)
class Outlines:
    """The outlines of a checkpoint's names, each once; counted: of those a spec has to cover.

    names: the names themselves, for specs that differ in their numbers only.
    """

    present: tuple[str, ...]
    counted: frozenset[str]
    names: TensorNames


def outlines(
    infos: Mapping[str, TensorInfo],
    ties: Mapping[str, str],
    *,
    excused: Collection[str] = (),
) -> Outlines:
    """Return the outlines of a checkpoint.

    ties: alias -> canonical name, either may be named. excused: names that need not be covered.
    """
    tied = {*ties, *ties.values()}
    free = {*tied, *excused}
    large = (n for n, info in infos.items() if info.floating and info.numel > 1 and n not in free)
    names = TensorNames(dict.fromkeys((*infos, *sorted(tied))))
    present = dict.fromkeys(map(_outline, names.order))
    return Outlines(tuple(present), frozenset(map(_outline, large)), names)


def least_problems(spec: Spec, names: Outlines) -> int:
    """Return a lower bound of the problems that binding a spec that was read from text will find.

    They are counted as `bind` does; tensors that the spec leaves uncovered count as one.
    """
    idle = list(idle_patterns(spec, names))
    return len(idle) or int(not _covers(spec, names))


def idle_patterns(spec: Spec, names: Outlines) -> Iterator[str]:
    """Yield patterns that match no tensor and are not optional.

    All of them if the outlines match every pattern, otherwise those whose outline matches none.
    """
    listed = (spec.buffers, spec.transposed, spec.tensors)
    texts = [text for patterns in listed for text in dict.fromkeys(patterns)]
    required = [text for text in texts if not compile_pattern(text).optional]
    idle = [text for text in required if not any(_outlines_matched([text], names.present))]
    yield from idle
    if not idle:
        yield from (t for t in required if not any(matches(compile_pattern(t), names.names)))


def _covers(spec: Spec, names: Outlines) -> bool:
    """Return False if a name is surely not covered."""
    return len(set(_outlines_matched(spec.tensors, names.counted))) == len(names.counted)


def _outlines_matched(patterns: Iterable[str], outlines: Iterable[str]) -> Iterator[str]:
    for text in patterns:
        yield from filter(_loose(text).fullmatch, outlines)


def _outline(name: str) -> str:
    return _NUMBER.sub("#", name)


@lru_cache(maxsize=4096)
def _loose(text: str) -> re.Pattern[str]:
    """Return an expression that matches the outline of every name that a pattern matches."""
    return re.compile("".join(map(_loose_piece, pattern_pieces(text))), re.DOTALL)


def _loose_piece(piece: str) -> str:
    if piece[0] == "*":
        return ".*"
    if piece[0] in "{[" and "," not in piece:
        return _ANY
    if piece[0] == "{":
        return f"(?:{'|'.join(map(_literal, piece[1:-1].split(',')))})"
    return _literal(piece)


def _literal(text: str) -> str:
    return _ANY.join(map(re.escape, _NUMBER.split(text)))


# An entry under `tensors:` on a line of its own, with or without quotes.
_ENTRY = re.compile(
    r"""^ {2}(?:"([^"\\]+)"|'([^']+)'|([^\s"'#&*!|>%@`{\[?:][^:#\n]*)):\s""", re.MULTILINE
)


_SECTION = re.compile(r"^tensors:[ \t]*\n((?: .*\n|\s*#.*\n|\n)*)", re.MULTILINE)


_OPEN = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|[*\\]")  # what stands for more than itself


def ruled_out(text: str, names: Outlines) -> bool:
    """Return whether some pattern of a spec matches no name, as far as a glance can tell.

    text: of a spec. A pattern that matches nothing is an error, so nothing that fits is ruled
    out: every part of a pattern that stands for itself has to occur in some name.
    """
    section = _SECTION.search(text)
    keys = _ENTRY.findall(section[1]) if section else []
    listing = "\n".join(names.names.order)
    return any(
        part not in listing
        for key in map("".join, keys)
        if not key.endswith("?")
        for part in _OPEN.split(key)
    )
