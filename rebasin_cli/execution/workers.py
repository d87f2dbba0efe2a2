"""Who is to carry out the tasks of a command, and with what: decided before any work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from rebasin_cli.errors import UsageError
from rebasin_cli.execution.processes import Processes
from rebasin_cli.execution.ray_cluster import RayCluster, import_ray
from rebasin_cli.execution.task import Executor, InOrder
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.machine import Machine, plan_device, plan_machine
from rebasin_cli.options.output import Output
from rebasin_cli.options.search import Search

LOCAL, PROCESSES, RAY = "local", "processes", "ray"
SCHEME = "ray://"


@dataclass(frozen=True)
class Workers:
    """Who carries out tasks.

    machines: the means of each process; of a cluster: what every task asks for. memory: bytes for
    each, if that was said.
    """

    kind: str
    address: str | None
    machines: tuple[Machine, ...]
    memory: int | None

    @property
    def repeat(self) -> bool:
        """Whether a task may be carried out twice."""
        return self.kind == RAY

    def here(self, computing: Computing) -> Computing:
        """Return the means of this process for what it does before the tasks, or as one of them."""
        if self.kind == LOCAL:
            return computing
        return replace(computing, device="auto" if self.repeat else self.machines[0].device)

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        """Give what carries out tasks, and stop it at the end."""
        made = self._executor()
        try:
            yield made
        finally:
            made.close()

    def _executor(self) -> Executor:
        if self.kind == RAY:
            return RayCluster(self.address, self.machines[0], self.memory)
        return InOrder(self.machines[0]) if self.kind == LOCAL else Processes(self.machines)


class SpreadRequest(Protocol):
    """What is asked of work that may be spread."""

    @property
    def executor(self) -> str:
        """Who does it."""

    @property
    def computing(self) -> Computing:
        """With what."""

    @property
    def search(self) -> Search:
        """How permutations are searched for."""

    @property
    def output(self) -> Output:
        """Where results go."""


def plan_workers(request: SpreadRequest, *, tasks: int, more: Iterable[str] = ()) -> Workers:
    """Return who carries out a number of tasks. more: see `plan_machine`.

    Raises UsageError for an executor that is not known, MachineError for one that is not there.
    """
    executor, computing, search = request.executor, request.computing, request.search
    if executor == RAY or executor.startswith(SCHEME):
        if request.output.in_place:
            raise UsageError(
                "--in-place does not go with a cluster",
                detail="what is begun anew where a node dies would no longer find its input",
                hint="-o FOLDER",
            )
        workers = _of_cluster(executor, computing, search, more)
        import_ray()
        return workers
    if executor == PROCESSES:
        machines = _shares(computing, search, tasks, more)
    elif executor == LOCAL and ("," in computing.device or "*" in computing.device):
        raise UsageError(
            f"--device {computing.device} is for several processes", hint="--executor processes"
        )
    elif executor == LOCAL:
        machines = (plan_machine(computing, search, more=more),)
    else:
        raise UsageError(
            f"no executor is called {executor!r}", hint="local, processes, ray or ray://HOST:PORT"
        )
    return Workers(executor, None, machines, computing.max_memory)


def _of_cluster(
    executor: str, computing: Computing, search: Search, more: Iterable[str]
) -> Workers:
    """Return the tasks of a cluster: each takes one CPU unless --jobs says more."""
    device = {"auto": "cpu"}.get(computing.device, computing.device)
    if device not in ("cpu", "cuda"):
        raise UsageError(
            f"--device {device}: which device a task gets is for the cluster to say",
            hint="--device cuda: one GPU for each task; --device cpu: none",
        )
    here = replace(computing, device="cpu", jobs=computing.jobs or 1)
    machine = replace(plan_machine(here, search, more=more), device=device)
    address = executor.removeprefix(SCHEME) if executor.startswith(SCHEME) else None
    return Workers(RAY, address, (machine,), computing.max_memory)


def _shares(
    computing: Computing, search: Search, tasks: int, more: Iterable[str]
) -> tuple[Machine, ...]:
    """Return the means of each process: a device of its own, and an equal share of the rest."""
    jobs = computing.threads
    devices = _devices(computing.device, jobs)[: max(1, tasks)]
    found = [plan_machine(replace(computing, device=d), search, more=more) for d in devices]
    count = len(found)
    return tuple(
        replace(m, jobs=max(1, jobs // count), max_memory=m.max_memory // count) for m in found
    )


def _devices(names: str, jobs: int) -> list[str]:
    """Return the device of each process: those named, all GPUs, or as often the CPU as threads."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if names == "cuda:*" or (names == "auto" and gpus):
        return gpus or [plan_device("cuda")]
    devices = [plan_device(name) for name in names.split(",")]
    return devices * jobs if devices == ["cpu"] else devices
