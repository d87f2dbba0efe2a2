"""What of the machine is used: device, threads, memory. Decided before any work."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rebasin_cli.errors import MachineError, UsageError, look_up
from rebasin_cli.matching.methods import METHODS, check_start
from rebasin_cli.matching.problem.settings import Settings
from rebasin_cli.options.computing import DEVICE, Computing, unknown_device
from rebasin_cli.options.search import Search

# Methods that run the models; `commands.align.method_inputs` says what each of them needs.
DATA_METHODS = ("activations", "straight-through")


@dataclass(frozen=True)
class Machine:
    """Device name as torch writes it, threads, bytes of tensors to keep in memory, and the seed.

    named: the device was asked for by its name, not found by `auto`.
    """

    device: str
    jobs: int
    max_memory: int
    seed: int = 0
    named: bool = False

    @property
    def for_maps(self) -> Machine:
        """The machine for maps that are no permutations, in float64, which mps has not.

        Their last digits depend on the device, where permutations are the same on all: `auto` is
        the CPU.
        """
        exact = self.named and not self.device.startswith("mps")
        return self if exact else replace(self, device="cpu")

    def require(self, needed: float, what: str, *, hint: str) -> None:
        """Raise MachineError where something takes more memory than may be used. what: takes it."""
        if needed > self.max_memory:
            raise MachineError(
                "not enough memory",
                detail=f"{what} about {needed / 1e9:.1f} GB, "
                f"{self.max_memory / 1e9:.1f} GB may be used",
                hint=hint,
            )

    def settings(self, search: Search) -> Settings:
        """Return how to search with these means."""
        return Settings(
            seed=self.seed,
            method=search.method,
            loss=search.loss,
            effort=search.effort,
            order=search.order,
            starts=(search.start,) if search.start else None,
            restarts=search.restarts,
            fast=search.fast,
            jobs=self.jobs,
            device=self.device,
            max_memory=self.max_memory,
        )


def plan_machine(computing: Computing, search: Search, *, more: Iterable[str] = ()) -> Machine:
    """Return what to run on, and how.

    more: methods of the command beside those that search by weights alone.
    Raises UsageError for an unknown name or device, MachineError if the device is absent.
    """
    if search.method in DATA_METHODS and search.method not in more:
        raise UsageError(
            f"only `rebasin align` has the method {search.method!r} for permutations",
            hint="align the models with it first, and give what it writes to this command",
        )
    look_up("method", search.method, dict.fromkeys((*METHODS, *more)))
    if search.start is not None:
        check_start(search.start, search.method)
    memory = computing.max_memory or free_memory() // 2
    machine = Machine(
        plan_device(computing.device),
        computing.threads,
        memory,
        computing.seed,
        computing.device != "auto",
    )
    machine.settings(search)  # refuses names that no table has, before any work
    return machine


def plan_device(name: str) -> str:
    """Return an existing device for a name as the user gives it."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    found = DEVICE.fullmatch(name)
    if not found:
        raise unknown_device(name)
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if int(found[2] or 0) >= present[found[1]]:
        raise MachineError(
            f"device {name!r} is not on this machine",
            detail=f"{int(present['cuda'])} CUDA devices are visible",
            hint="use --device auto or --device cpu",
        )
    return name


def free_memory() -> int:
    """Return the bytes that can be used without swapping, within the limit of the process."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    meminfo, statm = Path("/proc/meminfo"), Path("/proc/self/statm")
    if meminfo.exists():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        free = next((int(n) * 1024 for name, n, *_ in lines if name == "MemAvailable:"), free)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and statm.exists():
        used = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        free = min(free, max(limit - used, 0))
    return free
