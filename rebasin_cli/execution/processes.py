"""Tasks in processes of their own on this machine, one for each device or share of the cores."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NoReturn

from rebasin_cli.errors import MachineError
from rebasin_cli.execution.answer import carry_out_task, outcome_of, pack, unpack
from rebasin_cli.execution.task import DoneT, Task
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress, silent

GRACE = 30.0  # seconds in which a process that is told to leave removes what it was writing


class Processes:
    """Processes that take the next task as soon as they are free, each with means of its own.

    They are spawned, and not forked, which CUDA does not survive.
    """

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = machines
        self._workers: dict[Connection, BaseProcess] = {}

    def run(self, tasks: Sequence[Task[DoneT]], progress: Progress) -> Iterator[DoneT]:
        """Yield outcomes in order; see `Executor`. MachineError if a process dies."""
        for machine in self._machines[len(self._workers) : len(tasks)]:
            self._start(machine)
        waiting = list(enumerate(tasks))[::-1]
        taken: dict[Connection, int] = {}
        answers: dict[int, bytes] = {}
        for turn in range(len(tasks)):
            while turn not in answers:
                progress("done by processes", turn + len(answers), len(tasks))
                for free in [w for w in self._workers if w not in taken][: len(waiting)]:
                    taken[free], task = waiting.pop()
                    with self._alive(free):
                        free.send_bytes(pack(task))
                for ready in wait(list(taken)):
                    assert isinstance(ready, Connection)
                    with self._alive(ready):
                        answers[taken.pop(ready)] = ready.recv_bytes()
            yield outcome_of(answers.pop(turn))

    def _start(self, machine: Machine) -> None:
        context = get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, machine), daemon=True)
        # Born with it blocked, it never sees a terminal's Ctrl-C: we tell it to leave.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
            self._workers[mine] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    @contextmanager
    def _alive(self, worker: Connection) -> Iterator[None]:
        """Raise MachineError if the connection to a process breaks since the process has ended."""
        try:
            yield
        except (EOFError, OSError) as error:
            process = self._workers[worker]
            process.join(GRACE)
            raise MachineError(
                f"a process that did a part of the work has ended with code {process.exitcode}",
                detail="-9: the system has ended it, as it does where memory runs out",
                hint="fewer processes (--jobs, --device), or --max-memory SIZE",
            ) from error

    def close(self) -> None:
        """Tell all processes to leave, and wait until they have."""
        for process in self._workers.values():
            process.terminate()
        for connection, process in self._workers.items():
            process.join(GRACE)
            process.kill()
            connection.close()
        self._workers.clear()


def _serve(tasks: Connection, machine: Machine) -> None:
    """Carry out what comes until nothing does: also when the other side has died."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        while True:
            packed = tasks.recv_bytes()
            tasks.send_bytes(carry_out_task(partial(_carried_out, packed, machine)))
    except _ToldToLeaveError as told:
        raise SystemExit(128 + signal.SIGTERM) from told
    except (EOFError, OSError):
        return


def _carried_out(packed: bytes, machine: Machine) -> object:
    return unpack(packed)(machine, silent)


class _ToldToLeaveError(BaseException):
    """Not SystemExit, which is an answer where code of the user's raises it."""


def _leave(number: int, frame: object) -> NoReturn:
    raise _ToldToLeaveError  # unwinds, and so removes what is half written
