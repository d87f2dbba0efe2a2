"""Claim: the permutation symmetry of any architecture is found and proved.

Architectures of torchvision, timm and transformers (tiny configurations of all its model types),
with random weights: each is traced, proved, and checked once more by zoo/twin.py, in a process of
its own, on one thread. One line for each, then counts, failures, and what does not move. The short
form tries nine; --full all, in about an hour and a half of CPU. A library that is not
installed is skipped. Seconds are of CPU, MB the peak of the process, imports included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.benchmarks.zoo.architectures import (
    LIBRARIES,
    full_list,
    installed,
    matching,
    short_list,
)
from tests.benchmarks.zoo.summary import summary
from tests.benchmarks.zoo.verdict import HEADS, Verdict, dump_verdict, load_verdicts, parse_verdict
from tests.benchmarks.zoo.worker import enter

LIMIT = 180  # CPU seconds for one architecture
PATIENCE = 6  # wall seconds for each of them: the machine may be busy
PRELOAD = ["tests.benchmarks.zoo.worker", "tests.benchmarks.zoo.hf_list", "torchvision.models",
           "timm", "transformers.models.auto.modeling_auto"]  # fmt: skip


def judged(architecture: str, limit: int) -> Verdict:
    """Return the verdict that a process of its own reaches within its limit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "verdict")
        process = get_context("forkserver").Process(
            target=enter, args=(architecture, str(path), limit)
        )
        process.start()
        process.join(PATIENCE * limit)
        if process.is_alive():
            process.kill()
            process.join()
        if path.exists():
            return parse_verdict(path.read_text("utf-8"))
    late = process.exitcode in (-9, -24)
    reason = f"longer than {limit} s" if late else f"the process ended with {process.exitcode}"
    return Verdict(architecture, failure=reason, seconds=limit if late else 0)


def verdicts(names: Sequence[str], jobs: int, limit: int) -> Iterator[Verdict]:
    """Yield the verdicts in order, `jobs` processes at a time."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    get_context("forkserver").set_forkserver_preload(PRELOAD)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(partial(judged, limit=limit), names)


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Return the architectures to try, and say which libraries are missing."""
    for library in LIBRARIES:
        if not installed(library):
            print(f"{library} is not installed: its architectures are skipped")
    names = full_list() if arguments.full or arguments.only else short_list()
    return matching(names, arguments.only or "*")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all architectures")
    parser.add_argument("--only", metavar="GLOB", help="those of all that match, as 'timm:*vit*'")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="keep verdicts, one JSON a line"
    )
    parser.add_argument("--again", action="store_true", help="retry what failed or hardly moves")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"CPU seconds of one ({LIMIT})")
    return parser.parse_args()


def kept(names: Sequence[str], arguments: argparse.Namespace) -> list[Verdict]:
    """Return the verdicts of an earlier run that stand."""
    known = load_verdicts(arguments.resume) if arguments.resume else {}
    found = [known[name] for name in names if name in known]
    return [one for one in found if one.good or not arguments.again]


def main() -> None:
    arguments = parsed()
    names = chosen(arguments)
    if not names:
        return
    found = kept(names, arguments)
    print(HEADS, *(one.line for one in found), sep="\n", flush=True)
    known = {one.architecture for one in found}
    rest = [name for name in names if name not in known]
    with (
        arguments.resume.open("a", encoding="utf-8") if arguments.resume else nullcontext() as file
    ):
        for one in verdicts(rest, arguments.jobs, arguments.limit):
            print(one.line, flush=True)
            found.append(one)
            if file is not None:
                print(dump_verdict(one), file=file, flush=True)
    print(summary(found))
    if any(one.wrong for one in found):
        sys.exit("at least one architecture was validated wrongly")


if __name__ == "__main__":
    main()
