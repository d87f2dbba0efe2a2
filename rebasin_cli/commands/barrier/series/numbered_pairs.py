"""Which models of a series belong together: by a number in their names, in order, by folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.wording import count, listing

NUMBER, ORDER, FOLDER = "number", "order", "folder"
WAYS = (NUMBER, ORDER, FOLDER)
TWO_LISTS = "as many models of one run as of the other: run-a/*.pt run-b/*.pt"
_FIGURE = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"([A-Za-z]+)[\W_]*$")
_ENDING = re.compile(r"\.[A-Za-z]\w*")


@dataclass(frozen=True)
class NamedNumber:
    """A number in a name, and the word before it, empty if there is none."""

    value: float
    word: str


@dataclass(frozen=True)
class NumberedPair:
    """Two models that are compared. number: what their names have in common, if they are numbered.

    word: what stands before the number.
    """

    paths: tuple[Path, Path]
    number: float | None = None
    word: str = ""


@dataclass(frozen=True)
class Pairing:
    """The pairs of a series, in order. by: number, order or folder."""

    by: str
    pairs: tuple[NumberedPair, ...]


def pair_models(paths: Sequence[Path], by: str | None = None) -> Pairing:
    """Return the pairs of a series: by number in ascending order, else in the order of the paths.

    by: None: by folder where there are more than two, of two models each; by number where the names
    have one; else in order. Raises UsageError for models that do not make pairs.
    """
    if by is not None and by not in WAYS:
        hint = suggest(by, WAYS) or ", ".join(WAYS)
        raise UsageError(f"--pair-by {by}: no such way to pair models", hint=hint)
    folders = _by_folder(paths)
    of_two = all(len(group) == 2 for group in folders.values())
    if by == FOLDER or (by is None and len(folders) > 2 and of_two):
        return Pairing(FOLDER, _in_folders(folders))
    lists = _two_lists(paths, folders)
    if by == ORDER:
        return Pairing(ORDER, _in_order(*lists))
    numbers = [_numbers(models, (_stem, _folder)) for models in lists]
    if by is None and not any(numbers):
        return Pairing(ORDER, _in_order(*lists))
    return Pairing(NUMBER, _by_number(lists, numbers))


def _by_folder(paths: Sequence[Path]) -> dict[Path, list[Path]]:
    found: dict[Path, list[Path]] = {}
    for path in paths:
        found.setdefault(path.parent, []).append(path)
    return found


def _two_lists(
    paths: Sequence[Path], folders: dict[Path, list[Path]]
) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return the models of both runs: of each folder if there are two, else each half."""
    if len(folders) == 2:
        first, second = folders.values()
        return first, second
    if not paths or len(paths) % 2:
        raise UsageError(f"--series takes pairs of models, not {len(paths)}", hint=TWO_LISTS)
    half = len(paths) // 2
    return paths[:half], paths[half:]


def _in_order(first: Sequence[Path], second: Sequence[Path]) -> tuple[NumberedPair, ...]:
    if len(first) != len(second):
        raise UsageError(
            f"{count(len(first), 'model')} in {first[0].parent} and {len(second)} in "
            f"{second[0].parent} do not make pairs",
            hint=TWO_LISTS,
        )
    return tuple(NumberedPair(pair) for pair in zip(first, second, strict=True))


def _in_folders(folders: dict[Path, list[Path]]) -> tuple[NumberedPair, ...]:
    odd = [f"{folder} has {len(group)}" for folder, group in folders.items() if len(group) != 2]
    if odd:
        raise UsageError(
            f"--pair-by folder takes two models of each folder: {listing(odd)}",
            hint="name both models of each: w64/a.pt w64/b.pt w128/a.pt w128/b.pt",
        )
    pairs = [(group[0], group[1]) for group in folders.values()]
    numbers = _numbers([a for a, _ in pairs], (_folder,))
    if numbers is None:
        return tuple(NumberedPair(pair) for pair in pairs)
    _refuse_repeated([a.parent for a, _ in pairs], numbers)
    return _in_ascending_order(zip(numbers, pairs, strict=True))


def _by_number(
    lists: tuple[Sequence[Path], Sequence[Path]], numbers: Sequence[Sequence[NamedNumber] | None]
) -> tuple[NumberedPair, ...]:
    first, second = (_numbered(*each) for each in zip(lists, numbers, strict=True))
    alone = [str(path) for value, (_, path) in first.items() if value not in second]
    alone += [str(path) for value, (_, path) in second.items() if value not in first]
    if alone:
        raise UsageError(
            f"no model of the other list has the number of {listing(alone)}",
            hint=f"leave out what has no partner, or --pair-by order ({TWO_LISTS})",
        )
    return _in_ascending_order(
        (number, (path, second[value][1])) for value, (number, path) in first.items()
    )


def _in_ascending_order(
    found: Iterable[tuple[NamedNumber, tuple[Path, Path]]],
) -> tuple[NumberedPair, ...]:
    pairs = (NumberedPair(paths, number.value, number.word) for number, paths in found)
    return tuple(sorted(pairs, key=lambda pair: pair.number or 0.0))


def _numbered(
    paths: Sequence[Path], numbers: Sequence[NamedNumber] | None
) -> dict[float, tuple[NamedNumber, Path]]:
    """Return the models of a run by their numbers."""
    if numbers is None:
        raise UsageError(
            f"no number tells {listing([str(path) for path in paths])} apart",
            hint="--pair-by order takes the models of both lists as they come",
        )
    _refuse_repeated(paths, numbers)
    return {number.value: (number, p) for number, p in zip(numbers, paths, strict=True)}


def _refuse_repeated(paths: Sequence[Path], numbers: Sequence[NamedNumber]) -> None:
    times = Counter(number.value for number in numbers)
    for value in (value for value in times if times[value] > 1):
        same = [str(p) for n, p in zip(numbers, paths, strict=True) if n.value == value]
        raise UsageError(
            f"{listing(same)} have the number {value:g} in common",
            hint="which belong together is not clear: --pair-by order or folder, or fewer models",
        )


def _numbers(
    paths: Sequence[Path], texts: Sequence[Callable[[Path], str]]
) -> list[NamedNumber] | None:
    """Return the first number in which the names differ, of each; None if there is no such.

    texts: the parts of a path that may have it, the first that does counts. Of one model alone it
    is the last number.
    """
    for text in texts:
        found = [list(_FIGURE.finditer(text(path))) for path in paths]
        common = range(min(map(len, found)))
        differing = [k for k in common if len({float(each[k][0]) for each in found}) > 1]
        chosen = differing[:1] or (common[-1:] if len(paths) == 1 else [])
        for k in chosen:
            return [_named_number(each[k]) for each in found]
    return None


def _named_number(figure: re.Match[str]) -> NamedNumber:
    word = _WORD.search(figure.string[: figure.start()])
    return NamedNumber(float(figure[0]), word[1] if word else "")


def _stem(path: Path) -> str:
    """Return a file's name without its ending; `.ckpt-1000` and `.5` are none."""
    return path.stem if _ENDING.fullmatch(path.suffix) else path.name


def _folder(path: Path) -> str:
    return path.parent.name
