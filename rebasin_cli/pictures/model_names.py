"""Names of models in a picture: short ones that tell the models apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_CUT = "..."


def model_names(paths: Sequence[Path], longest: int = 60) -> list[str]:
    """Return a name for each model, of at most `longest` letters.

    Names of files, with the folders above them where these alone tell models apart
    (run-1/model.safetensors, run-2/model.safetensors). Of a long name what all of them begin
    or end with is left out, and letters in the middle of the rest.
    """
    deepest = max(len(path.parts) for path in paths)
    cuts = ([path.parts[-depth:] for path in paths] for depth in range(1, deepest + 1))
    apart = (cut for cut in cuts if len({*cut}) == len({*paths}))
    names = [str(Path(*parts)) for parts in next(apart, [path.parts for path in paths])]
    head, tail = _shared(names), _shared([name[::-1] for name in names])
    return [_fitted(name, longest, head, max(head, len(name) - tail)) for name in names]


def _shared(names: Sequence[str]) -> int:
    """Return how many letters all names begin with."""
    columns = enumerate(zip(*names, strict=False))
    shortest = min(map(len, names))
    return next((place for place, letters in columns if len({*letters}) > 1), shortest)


def _fitted(name: str, longest: int, start: int, end: int) -> str:
    """Return a name cut to a length around the letters from start to end, which it has alone."""
    if len(name) <= longest:
        return name
    room = longest - 2 * len(_CUT) - (end - start)
    if room < 0:
        half = (longest - len(_CUT)) // 2
        return name[start : start + half] + _CUT + name[end - half : end]
    first = max(0, start - room)
    last = end + room - (start - first)
    return _CUT * (first > 0) + name[first:last] + _CUT * (last < len(name))
