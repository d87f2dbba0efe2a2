"""Claim: whatever the family, and whatever form its files have, the function is kept.

Random models of 39 families of transformers (tiny configurations), 12 architectures of timm and 11
of torchvision, two seeds each: as folders, `.bin` folders, shards and single files, heads tied and
untied, with a head and without. Each pair goes through `align`, `merge` and `lerp --at 0,.5,1` of
the command line. The aligned model, loaded by its own library, has to compute what B computed, the
ends of the line have to be A and B in every tensor, the merge and the midpoint have to load and to
give finite outputs, and what lay beside the weights has to lie there again. Pairs of two kinds (one
head tied, one model without a head) may be refused. The short form tries five families.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from rebasin_cli.models.trial_run import quiet
from tests.benchmarks.kept.catalogue import SHORT, families, trials
from tests.benchmarks.kept.commands import tried
from tests.benchmarks.kept.result import HEADS, Result, Trial

SEEDS = (0, 1)


def results(names: Sequence[str], form: str) -> Iterator[Result]:
    """Yield what each pair of each family comes to."""
    with tempfile.TemporaryDirectory(prefix="rebasin-kept-") as folder:
        for name in names:
            chosen = [trial for trial in trials(name) if fnmatchcase(trial.name, form)]
            for number, trial in enumerate(chosen):
                place = Path(folder, f"{name.replace(':', '-')}-{number}")
                yield _result(trial, place)
                shutil.rmtree(place, ignore_errors=True)


def _result(trial: Trial, place: Path) -> Result:
    try:
        with quiet():
            return tried(trial, place, SEEDS)
    except Exception as error:  # the code of any model runs here
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Result(trial, wrong=(f"not tried: {text} ({where})",))


def summary(found: Sequence[Result]) -> str:
    """Return how many pairs came to what, library by library."""
    lines = []
    for library in dict.fromkeys(one.trial.library for one in found):
        mine = [one for one in found if one.trial.library == library]
        counts = Counter(one.verdict for one in mine)
        number = len({one.trial.family for one in mine})
        words = (f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        lines.append(f"{library}: {number} families, {len(mine)} pairs: {', '.join(words)}")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all families")
    parser.add_argument("--only", metavar="GLOB", help="those of all that match, as '*:bert'")
    parser.add_argument("--form", metavar="GLOB", default="*", help="those pairs alone")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    torch.set_num_threads(1)
    every = families() if arguments.full or arguments.only else SHORT
    names = [name for name in every if fnmatchcase(name, arguments.only or "*")]
    found: list[Result] = []
    print(HEADS, flush=True)
    for result in results(names, arguments.form):
        print(result.line, flush=True)
        found.append(result)
    print(summary(found))
    if any(one.wrong for one in found):
        sys.exit("at least one pair was not treated as it should be")


if __name__ == "__main__":
    main()
