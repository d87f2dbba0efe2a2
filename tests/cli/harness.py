"""Running `rebasin` as a process: forked from one that has torch in memory, or started afresh.

done = rebasin("align", "a.pt", "b.pt", cwd=tmp_path)
assert done.code == 0 and done.lines == ["a.pt", "b.aligned.pt"]
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds, to end what hangs; on a free machine a command takes a tenth of one
COMMAND = (sys.executable, "-m", "rebasin_cli")

# What makes output depend on the machine that the tests run on.
_PERSONAL = (
    "FORCE_COLOR",
    "NO_COLOR",
    "GITHUB_ACTIONS",
    "COLUMNS",
    "REBASIN_DEBUG",
    "PYTHONUNBUFFERED",
)


@dataclass(frozen=True)
class Done:
    """A process that has ended. code: negative if a signal ended it."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class Running:
    """A forked `rebasin` process."""

    def __init__(self, report: int) -> None:
        self._report = os.fdopen(report, "rb", buffering=0)
        self.pid = int(self._line(PATIENCE))

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return the exit code, negative for a signal; kill the process if it takes too long."""
        try:
            return os.waitstatus_to_exitcode(int(self._line(seconds)))
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            self._report.close()

    def _line(self, seconds: float) -> bytes:
        text, end = b"", monotonic() + seconds
        while not text.endswith(b"\n"):
            if not select.select([self._report], [], [], max(0, end - monotonic()))[0]:
                raise TimeoutError("the command takes too long")
            letter = self._report.read(1)
            if not letter:
                raise EOFError("the process that forks has died")
            text += letter
        return text


def until(condition: Callable[[], bool], pause: float = 0.001) -> None:
    """Wait until something holds; TimeoutError if it does not within our patience."""
    end = monotonic() + PATIENCE
    while not condition():
        if monotonic() > end:
            raise TimeoutError("what is waited for does not come")
        sleep(pause)


def start(
    *argv: str | Path,
    cwd: Path,
    streams: Sequence[int],
    env: Mapping[str, str] | None = None,
    limits: Mapping[str, int] | None = None,
    closed: Sequence[int] = (),
) -> Running:
    """Fork a `rebasin` process on descriptors for stdin, stdout and stderr.

    limits: by their names in `resource`. closed: numbers of the streams that it does not get.
    """
    request = {
        "argv": [os.fspath(word) for word in argv],
        "cwd": str(cwd),
        "env": {**plain_environment(), **(env or {})},
        "limits": dict(limits or {}),
        "closed": list(closed),
    }
    mine, theirs = os.pipe()
    try:
        message = [json.dumps(request).encode()]
        socket.send_fds(_zygote(), message, [*streams, theirs])
    finally:
        os.close(theirs)
    return Running(mine)


def rebasin(
    *argv: str | Path,
    cwd: Path,
    stdin: bytes = b"",
    stdout: int | None = None,
    env: Mapping[str, str] | None = None,
    limits: Mapping[str, int] | None = None,
    closed: Sequence[int] = (),
    seconds: float = PATIENCE,
) -> Done:
    """Run a forked `rebasin` process to its end. stdout: a descriptor in place of a file."""
    with captured(stdin) as (given, out, err):
        streams = [given.fileno(), out.fileno() if stdout is None else stdout, err.fileno()]
        running = start(*argv, cwd=cwd, streams=streams, env=env, limits=limits, closed=closed)
        return Done(running.wait(seconds), _text(out), _text(err))


def fresh(
    *argv: str | Path, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> Done:
    """Run `rebasin` in a new interpreter to its end: seconds, so only where it matters."""
    done = subprocess.run(
        [*COMMAND, *argv],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env={**plain_environment(), **(env or {})},
        timeout=PATIENCE,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def shell(script: str, cwd: Path) -> Done:
    """Run a bash script in which `rebasin` is the command."""
    prefix = f'rebasin() {{ "{sys.executable}" -m rebasin_cli "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", prefix + script],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=plain_environment(),
        timeout=PATIENCE,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def captured(stdin: bytes = b"") -> Iterator[tuple[IO[bytes], IO[bytes], IO[bytes]]]:
    """Yield files for the three streams; stdin holds the given bytes."""
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        given.write(stdin)
        given.seek(0)
        yield given, out, err


def plain_environment() -> dict[str, str]:
    """Return the environment without what would change the output."""
    kept = {name: value for name, value in os.environ.items() if name not in _PERSONAL}
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm", "HF_HUB_OFFLINE": "1"}
    return {**kept, **ours}


def image(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return kind, mode, content and time of everything under a folder, by name."""
    return {path.relative_to(folder).as_posix(): _facts(path) for path in folder.rglob("*")}


def _facts(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    if path.is_symlink():
        return ("link", str(path.readlink()))
    if not path.is_file():
        return ("other", status.st_mode)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ("file", status.st_mode, status.st_mtime_ns, digest)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "surrogateescape")


@cache
def _zygote() -> socket.socket:
    """Start the process that forks, once; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.zygote", str(theirs.fileno())],
        cwd=ROOT,
        env=plain_environment(),
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
