"""Tasks on the nodes of a Ray cluster; models are read and written on storage that all share."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TextIO

from rebasin_cli.errors import MachineError
from rebasin_cli.execution.answer import carry_out_task, outcome_of, pack, unpack
from rebasin_cli.execution.task import DoneT, Task
from rebasin_cli.options.machine import Machine, free_memory, plan_device
from rebasin_cli.progress import Progress, silent

GRACE = 30.0  # seconds in which tasks that are cancelled remove what they were writing
LIVES = 3  # times that a task is begun anew where a node dies


class RayCluster:
    """A Ray cluster: the one at an address, else the one that Ray finds, else one on this machine.

    machine: what a task asks for: its threads are CPUs, and of another device than the CPU it is
    one. memory: bytes for a task; None: its share of half of what is free where it runs.
    """

    def __init__(self, address: str | None, machine: Machine, memory: int | None) -> None:
        self._ray = import_ray()
        self._machine, self._memory = machine, memory
        self._pending: list[Any] = []
        ours = signal.getsignal(signal.SIGTERM)  # Ray sets its own
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError, self._ray.exceptions.RayError) as error:
            raise MachineError(
                f"no Ray cluster answers at {address or 'the usual place'}", detail=str(error)
            ) from error
        finally:
            signal.signal(signal.SIGTERM, ours)
        self._stdout = sys.stdout
        vars(sys)["stdout"] = _OwnWords(sys.stdout)

    def run(self, tasks: Sequence[Task[DoneT]], progress: Progress) -> Iterator[DoneT]:
        """Yield outcomes in order; see `Executor`. MachineError if nodes keep dying."""
        means = {"num_cpus": self._machine.jobs, "num_gpus": int(self._machine.device != "cpu")}
        remote = self._ray.remote(**means, max_retries=LIVES)(_on_node)
        given = self._machine, self._memory, Path.cwd()
        self._pending = [remote.remote(pack(task), *given) for task in tasks]
        for done in range(len(tasks)):
            progress("done by the cluster", done, len(tasks))
            try:
                # Ray's own `get` makes another exception of what a signal raises in it
                packed = self._pending[0].future().result()
            except self._ray.exceptions.RayError as error:
                raise MachineError(
                    f"the cluster has given up a part of the work after {LIVES + 1} attempts",
                    detail=str(error).strip(),
                ) from error
            del self._pending[0]
            yield outcome_of(packed)

    def close(self) -> None:
        """Cancel what is going on, wait until it has left nothing behind, and leave the cluster."""
        for task in self._pending:
            self._ray.cancel(task)
        wait([task.future() for task in self._pending], timeout=GRACE)
        with redirect_stdout(StringIO()):
            self._ray.shutdown()
        sys.stdout = self._stdout


class _OwnWords:
    """A stream without what threads say: Ray's tell there, between our results, of dead nodes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text) if current_thread() is main_thread() else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def import_ray() -> Any:
    """Return Ray. Raises MachineError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MachineError(
            "a cluster needs the package ray, which cannot be imported",
            detail=str(error),
            hint="pip install 'rebasin-cli[ray]'",
        ) from error


def _on_node(packed: bytes, machine: Machine, memory: int | None, folder: Path) -> bytes:
    return carry_out_task(partial(_done_in, folder, packed, machine, memory))


def _done_in(folder: Path, packed: bytes, machine: Machine, memory: int | None) -> object:
    """Carry out a task on a node, in the folder in which its paths mean what they did."""
    if not folder.is_dir():
        raise MachineError(
            f"the folder {folder} is not on the node {os.uname().nodename}",
            hint="work in a folder, and on models, that all nodes see under the same path",
        )
    os.chdir(folder)
    share = max(1, (os.cpu_count() or 1) // machine.jobs)
    room = memory or free_memory() // 2 // share
    means = replace(machine, device=plan_device(machine.device), max_memory=room)
    return unpack(packed)(means, silent)
