"""Claim: what lies at an end of the line between two checkpoints is that checkpoint, or is refused.

Random pairs (tests/merging/pairs.py: all dtypes, shapes of 0, 1 and more axes, empty ones, ties,
single files, nested files, folders and shards), each interpolated at 0 and 1 and averaged with the
weights 1,0 and 0,1. Every tensor is compared bit by bit. --full: 1,000 pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random

from tests.benchmarks.bed.tables import table
from tests.merging.pairs import check_ends, drawn_pair

SHORT, FULL = 60, 1000


def reasons(pairs: int) -> Counter[str]:
    """Return how often ends were equal, and how often they were refused, by reason."""
    random, found = Random(0), Counter[str]()
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            found.update(check_ends(drawn_pair(random), Path(folder)).values())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"{FULL:,} pairs")
    pairs = FULL if parser.parse_args().full else SHORT
    warnings.simplefilter("error")
    found = reasons(pairs)
    print(f"{pairs:,} pairs, {found.total():,} ends, none of them another model.\n")
    print(table(("ends", "outcome"), [(str(n), what) for what, n in found.most_common()]))


if __name__ == "__main__":
    main()
