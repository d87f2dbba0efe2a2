"""Runs of the program as the texts that are committed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.cli.harness import rebasin
from tests.golden.cases import CASES, Run, Same
from tests.golden.files import described, snapshot
from tests.golden.inputs import write_inputs
from tests.golden.plain import plain


def transcript(name: str, folder: Path) -> str:
    """Return what the command lines of a case print and write in a folder."""
    write_inputs(folder)
    lines = (line for run in CASES[name] for line in _said(run, folder))
    return "\n".join(lines) + "\n"


def _said(run: Run, folder: Path) -> Iterator[str]:
    before = snapshot(folder)
    # no accelerator, whatever the machine has, and no traces that an earlier version kept
    environment = {"CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(folder / "cache")}
    argv = shlex.split(run.words)
    done = rebasin(*argv, cwd=folder, stdin=run.stdin.encode(), env=environment)
    yield f"$ rebasin {run.words}"
    yield f"exit {done.code}"
    for stream, text in (("out", done.out), ("err", done.err)):
        shown = plain(text, folder, exact=run.same is Same.BYTES)
        yield from (f"{stream} | {line}".rstrip() for line in shown.splitlines())
    yield from (f"file {line}".rstrip() for line in described(folder, before, run.same))
    yield ""
