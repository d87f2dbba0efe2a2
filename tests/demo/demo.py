"""Show what alignment does to two networks trained apart: python demo.py [FOLDER].

Trains them, aligns one with the other, merges them, and walks the straight line between them
before and after. Every command is printed as it runs, and can be typed again in the folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
FOLDER = SCRIPTS.parents[1] / "build" / "demo"


@dataclass(frozen=True)
class Point:
    """A model on the line from a to b, and how it does; alpha: the weight of b."""

    alpha: float
    loss: float
    accuracy: float


Line = list[Point]
HEADS = "    loss  accuracy"


@dataclass(frozen=True)
class Shell:
    """Runs commands in a folder with this interpreter's programs first on the path."""

    folder: Path

    def run(self, command: str) -> str:
        """Print and run a command, and return its output; the demo ends where one fails."""
        print(f"\n$ {command}", flush=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"this command ended with {done.returncode}")
        return done.stdout

    def show(self, command: str) -> None:
        """Run a command and print its output."""
        print(self.run(command), end="", flush=True)

    def line(self, a: str, b: str) -> Line:
        """Return the models between two checkpoints, ends included, as `evaluate.py` sees them."""
        judge = f"python {shlex.quote(self.script('evaluate.py'))} {{path}}"
        said = self.run(f"rebasin lerp {a} {b} --steps 9 --endpoints --json --exec {judge!r}")
        events = [json.loads(text) for text in said.splitlines()]
        points = [event for event in events if event["event"] == "result"]
        return sorted((Point(p["alpha"], **p["exec"]) for p in points), key=lambda p: p.alpha)

    def script(self, name: str) -> str:
        return os.path.relpath(SCRIPTS / name, self.folder)


def barrier(line: Line) -> float:
    """Return by how much the loss rises above the straight line between its ends."""
    first, last = line[0].loss, line[-1].loss
    return max(p.loss - (1 - p.alpha) * first - p.alpha * last for p in line)


def table(before: Line, after: Line) -> str:
    """Return both lines side by side, point by point."""
    rows = ["         before alignment      after alignment", f"alpha  {HEADS}  {HEADS}"]
    for old, new in zip(before, after, strict=True):
        left = f"{old.loss:8.3f}  {old.accuracy:8.1%}"
        rows.append(f"{old.alpha:5.1f}  {left}  {new.loss:8.3f}  {new.accuracy:8.1%}")
    rows.append(f"rise   {barrier(before):8.3f}  {'':8}  {barrier(after):8.3f}")
    return "\n".join(rows)


def main(folder: Path) -> None:
    shell = Shell(folder)
    print(f"working in {folder}")
    shell.show(f"python {shell.script('train.py')} .")
    before = shell.line("a.safetensors", "b.safetensors")
    shell.show("rebasin align a.safetensors b.safetensors")
    after = shell.line("a.safetensors", "b.aligned.safetensors")
    shell.show("rebasin merge a.safetensors b.safetensors")
    merged = json.loads(shell.run(f"python {shell.script('evaluate.py')} merged.safetensors"))
    print(f"\n{table(before, after)}")
    print(f"\nmerged model: loss {merged['loss']:.3f}, accuracy {merged['accuracy']:.1%}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        shutil.rmtree(FOLDER, ignore_errors=True)
    work = Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER).resolve()
    work.mkdir(parents=True, exist_ok=True)
    main(work)
