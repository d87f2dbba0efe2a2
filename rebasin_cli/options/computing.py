"""What of the machine may be used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from rebasin_cli.errors import UsageError
from rebasin_cli.options.parameters import flags_in
from rebasin_cli.options.values import parse_size

_machine = flags_in("Machine")

DEVICE = re.compile("(cpu|cuda|mps)(?::([0-9]+))?")
ONE_OR_MORE = re.compile(f"auto|cuda:[*]|{DEVICE.pattern}(,{DEVICE.pattern})*")


def _device(name: str) -> str:
    """Return a name of devices as it is. Raises UsageError at once, without torch, for another."""
    if not ONE_OR_MORE.fullmatch(name):
        raise unknown_device(name)
    return name


def unknown_device(name: str) -> UsageError:
    """Return what is wrong with a name that no device can have."""
    return UsageError(
        f"there is no device called {name!r}", hint="--device auto, cpu, cuda, cuda:N or mps"
    )


@dataclass(frozen=True)
class Computing:
    """What of the machine may be used, and the seed of all that is random.

    jobs: threads; 0: one for each core. max_memory: bytes; None: half of what is free. check:
    whether the function stays, by running the model; None: if it is of the usual size.
    """

    device: str = _machine(
        "--device",
        default="auto",
        parse=_device,
        metavar="auto|cpu|cuda[:N]|mps",
        help="Where to compute.",
    )
    jobs: int = _machine("--jobs", "-j", default=0, min=0, help="Threads; 0: one for each core.")
    max_memory: int | None = _machine(
        "--max-memory",
        kind=str | None,
        parse=parse_size,
        metavar="SIZE",
        help="For tensors, as 8GB; default: half.",
    )
    seed: int = _machine("--seed", default=0, min=0, max=2**63 - 1, help="Same seed, same result.")
    check: bool | None = _machine(
        "--check/--no-check",
        show_default=False,
        help="Run the model on a random input to see that its function stays; default: where "
        "--model or a config.json tells the model, up to 150 million parameters.",
    )

    @property
    def threads(self) -> int:
        """How many threads there may be: as many as were asked for, else one for each core."""
        return self.jobs or len(os.sched_getaffinity(0))


MEANS = ("device", "jobs", "max_memory", "seed")


def executor_option() -> Any:
    """Return what declares --executor: who carries out the tasks of a command."""
    return _machine(
        "--executor",
        default="local",
        metavar="local|processes|ray[://ADDRESS]",
        help="processes: one for each of --device cuda:0,cuda:1 or cuda:*, or sharing the cores. "
        "ray: a cluster whose nodes share the storage with all files.",
    )
