"""What of an output is compared: all but what clocks, folders, versions and processors decide."""

from __future__ import annotations

import re
from pathlib import Path

# A number with a point that is no part of a name, as in `alpha-0.25.pt` or `1.2.3`.
_FLOAT = re.compile(r"(?<![\w./-])-?\d[\d,]*(?:\.\d+(?:e[+-]?\d+)?|e-\d+)(?![\w-]|\.\d|\.[a-z])")
_SECONDS = re.compile(r'(?<="seconds":)[\d.e+-]+|(?<![\w.])\d+(?:\.\d+)?(?= m?s\b)')
_TORCH = re.compile(r"\btorch \d[\w.+]*")
_CONTINUED = re.compile(r"(?:\n|\\n)# ")
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_BYTES = re.compile(r'(?<="bytes":)\d+|[\d,.]+(?= (?:[kMG]i?)?B\b)')
_CLEAN = re.compile(r"(?<=difference )0\b|(?<=differ by )0\b")  # where others have a little noise
_NOISE = 1e-6  # rounding errors of float32 are below, figures that say something above
# Numbers on the edge of a rounding, as 1.125 to three digits, go one way with any last bit.
_NUDGE = 1 + 1.3e-5


def plain(text: str, folder: Path, *, exact: bool = True) -> str:
    """Return a text without times, its folder, versions and the digits that are noise.

    exact: whether the files it tells of are the same everywhere, so that digests and sizes stay.
    """
    text = text.replace(str(folder), "$FOLDER").replace("Invalid value: ", "")  # typer's words
    text = _SECONDS.sub("#", text)
    text = _TORCH.sub("torch #", text)
    if not exact:
        text = _BYTES.sub("#", _DIGEST.sub("#", text))
        text = _CONTINUED.sub(" ", text)  # comments of specs: a version's length moves their ends
    return _FLOAT.sub(_short, _CLEAN.sub("~0", text))


def _short(found: re.Match[str]) -> str:
    value = float(found[0].replace(",", ""))
    return "~0" if abs(value) < _NOISE else f"{value * _NUDGE:.3g}"
