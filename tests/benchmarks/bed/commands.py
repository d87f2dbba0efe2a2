"""Running the real command: from cold, or in a process forked from one that has loaded torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rebasin_cli.cli import main

COMMAND = (sys.executable, "-m", "rebasin_cli")
_LOADED = ["rebasin_cli.cli", "rebasin_cli.cli.screen"]
_LOADED += [f"rebasin_cli.commands.{name}.run" for name in ("align", "lerp", "merge")]


@dataclass(frozen=True)
class Spent:
    """What a program took: seconds, and the most bytes of memory it held."""

    code: int
    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Said:
    """What a command printed, as its JSON events, and the CPU seconds without the start."""

    events: list[dict[str, Any]]
    cpu: float

    @property
    def result(self) -> dict[str, Any]:
        """Return the last result: for `align`, the model after the reference."""
        return [event for event in self.events if event["event"] == "result"][-1]


def spend(command: Sequence[str], *, folder: Path | None = None) -> Spent:
    """Run a program from cold and return what it took; its output is thrown away."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(command)} ended with {child.returncode}: {said.read().decode()}")
    wall = time.perf_counter() - began
    return Spent(0, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def say(arguments: Sequence[str]) -> Said:
    """Run `rebasin` with --json in a warm process; the benchmark ends where the command fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = warm([*arguments, "--json", "--quiet"], folder)
        process.join()
        if process.exitcode:
            shown = " ".join(arguments)
            sys.exit(f"rebasin {shown} ended with {process.exitcode}: {_read(folder, 'stderr')}")
        events = [json.loads(line) for line in _read(folder, "stdout").splitlines()]
        return Said(events, float(_read(folder, "cpu")))


def warm(arguments: Sequence[str], folder: Path) -> BaseProcess:
    """Start `rebasin` in a new process that has its packages loaded already, and return it.

    stdout, stderr and the CPU seconds go to files of these names in the folder.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    process = context.Process(target=_enter, args=(list(arguments), str(folder)))
    process.start()
    return process


def _enter(arguments: list[str], folder: str) -> None:
    """Be the command `rebasin`, in the process made for it."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT, 0o666), descriptor)
    sys.argv = ["rebasin", *arguments]
    began = time.process_time()
    try:
        main()
    finally:
        Path(folder, "cpu").write_text(str(time.process_time() - began), "utf-8")


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text("utf-8")
