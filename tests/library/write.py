"""Write the bundled specs that the tracer finds, or check that they are current.

    python -m tests.library.write [--check] [NAME ...]

Needs the packages that have the models: transformers, torchvision, timm, diffusers.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests.library.table import ENTRIES
from tests.library.written import text_of, variants_of

FOLDER = Path(__file__).parents[2] / "specs"


def main(arguments: Sequence[str]) -> int:
    """Write or compare the specs that are named, all by default; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *ENTRIES], metavar="NAME")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if one differs")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    stale = [name for name in options.names or ENTRIES if _stale(name, write=not options.check)]
    return int(bool(stale) and options.check)


def _stale(name: str, *, write: bool) -> bool:
    start = time.perf_counter()
    entry = ENTRIES[name]
    text, path = text_of(entry, variants_of(entry)), FOLDER / f"{name}.yaml"
    stale = not path.exists() or path.read_text("utf-8") != text
    if stale and write:
        path.write_text(text, "utf-8")
    seconds = time.perf_counter() - start
    print(f"{name:24} {seconds:6.1f} s  {'differs' if stale else 'current'}", flush=True)
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
