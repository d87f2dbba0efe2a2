"""Run two checkouts on real checkpoints and compare all that they say and write, byte for byte.

    python -m tests.golden.compare_checkouts OLD NEW [--shared ../shared] [--short] [--only WORD]

Both run with this interpreter, in a fresh folder of one path, one command after another; only
elapsed seconds are masked. A line for each command says `same`, or what differs. Exit code 1 if
anything does. The folder of --shared holds `checkpoints`; nothing is written there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cli.harness import plain_environment
from tests.golden.commands import COMMANDS, SHORT, Command, write_folder
from tests.golden.hunks import hunks

_SECONDS = re.compile(rb'(?<="seconds":)[\d.e+-]+|(?<="seconds": )[\d.e+-]+|\b\d+\.\d(?= s\b)')
# Traces name the code that made them, and fonts the machine: neither is an output.
_CACHE = ".cache"
_SHOWN = 6  # lines of a difference; the rest is counted


@dataclass(frozen=True)
class Said:
    """What one side made of a command: results by name, and the seconds that it took."""

    parts: Mapping[str, bytes]
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Compare two checkouts; return the exit code."""
    options = _parser().parse_args(arguments)
    chosen = [c for c in (SHORT if options.short else COMMANDS) if (options.only or "") in c.words]
    checkouts = [path.resolve() for path in (options.old, options.new)]
    start, differing = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as home:
        for side in range(2):
            write_folder(Path(home, str(side)), options.shared / "checkpoints")
        for command in chosen:
            both = [_run(Path(home), side, path, command) for side, path in enumerate(checkouts)]
            differing += _report(command, *both)
    seconds = time.perf_counter() - start
    print(f"{len(chosen)} commands, {differing} differ, {seconds:.0f} s")
    return int(differing > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--short", action="store_true", help="the quickest commands only")
    parser.add_argument("--only", metavar="WORD", help="commands in which this stands")
    return parser


def _run(home: Path, side: int, checkout: Path, command: Command) -> Said:
    """Run a command of one side, whose folder stands at the path of both meanwhile."""
    own, work = home / str(side), home / "work"
    own.rename(work)
    try:
        before = _files(work)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "rebasin_cli", *shlex.split(command.words)],
            cwd=work,
            input=command.stdin.encode(),
            capture_output=True,
            env=_environment(checkout, work),
            check=False,
        )
        seconds = time.perf_counter() - start
        said = {"exit": b"%d" % done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        return Said(
            {name: _masked(text) for name, text in said.items()} | _new(work, before), seconds
        )
    finally:
        work.rename(own)


def _environment(checkout: Path, work: Path) -> dict[str, str]:
    cache = str(work / _CACHE)
    own = {"PYTHONPATH": str(checkout), "XDG_CACHE_HOME": cache, "MPLCONFIGDIR": cache}
    return {**plain_environment(), **own, "PYTHONDONTWRITEBYTECODE": "1"}


def _new(work: Path, before: Mapping[Path, tuple[int, int]]) -> dict[str, bytes]:
    """Return what is in the files that a command wrote; a digest, or text that may hold times."""
    after = _files(work)
    gone = {f"file {path}": b"gone" for path in before.keys() - after.keys()}
    written = (path for path, facts in after.items() if before.get(path) != facts)
    return gone | {f"file {path}": _content(work / path) for path in written}


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if b"\0" not in data[:4096]:
        return _masked(data)
    return f"sha256 {hashlib.sha256(data).hexdigest()}, {len(data)} bytes".encode()


def _files(work: Path) -> dict[Path, tuple[int, int]]:
    """Return when each file was written, and how long it is."""
    paths = (path for path in work.rglob("*") if path.is_file())
    named = ((path.relative_to(work), path.stat()) for path in paths)
    return {path: (s.st_mtime_ns, s.st_size) for path, s in named if path.parts[0] != _CACHE}


def _masked(text: bytes) -> bytes:
    return _SECONDS.sub(b"#", text)


def _report(command: Command, old: Said, new: Said) -> bool:
    """Print a line about a command, and how its results differ if they do."""
    names = [n for n in {**old.parts, **new.parts} if old.parts.get(n) != new.parts.get(n)]
    verdict = (
        f"differs: {', '.join(names)}" if names else f"same, exit {old.parts['exit'].decode()}"
    )
    print(
        f"{verdict}  {old.seconds:.1f} and {new.seconds:.1f} s  rebasin {command.words}", flush=True
    )
    for name in names:
        lines = list(_difference(old.parts.get(name, b""), new.parts.get(name, b"")))
        rest = len(lines) - _SHOWN
        print(
            *lines[:_SHOWN], *([f"    and {rest} more lines"] if rest > 0 else []), sep=os.linesep
        )
    return bool(names)


def _difference(old: bytes, new: bytes) -> Iterator[str]:
    one, other = (side.decode("utf-8", "backslashreplace").splitlines() for side in (old, new))
    yield from (f"    {line}" for line in hunks(one, other))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
