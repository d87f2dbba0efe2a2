"""Write the golden texts of the program as it is, or check that they are current.

    python -m tests.golden.write [--check]

To be read before it is committed: `git diff tests/golden/texts` is what users will see change.
A new version number changes the digests of all files that rebasin writes, since it is in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden.golden import TEXTS, difference, golden_texts


def main(arguments: Sequence[str]) -> int:
    """Write or compare all golden texts; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if one differs")
    check = parser.parse_args(arguments).check
    texts = dict(golden_texts())
    stale = [path for path, text in texts.items() if difference(path, text)]
    gone = [path for path in sorted(TEXTS.rglob("*.*")) if path not in texts]
    for path in [*stale, *gone]:
        print(
            f"{path.relative_to(TEXTS)} differs" if path in texts else f"{path.name} is left over"
        )
        if not check:
            _update(path, texts.get(path))
    return int(check and bool(stale or gone))


def _update(path: Path, text: str | None) -> None:
    """Write a golden text, or remove one that nothing makes any more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        path.unlink()
    else:
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
