"""What is carried out, wherever that is, and the one interface of whoever does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress

DoneT = TypeVar("DoneT")
DoneT_co = TypeVar("DoneT_co", covariant=True)


class Task(Protocol[DoneT_co]):
    """One piece of work: a value that can be pickled, and opens its inputs by path where it is.

    It may be carried out twice, where a node dies: then it has to write the same over the first.
    """

    def __call__(self, machine: Machine, progress: Progress) -> DoneT_co:
        """Do the work with the means of a machine and return what came of it."""


class Executor(Protocol):
    """Whoever carries out tasks. To be closed, also after an interruption."""

    def run(self, tasks: Sequence[Task[DoneT]], progress: Progress) -> Iterator[DoneT]:
        """Yield the outcome of each task, in the order of the tasks.

        Raises what a task raises, at its turn; MachineError where no one is left to do it.
        """

    def close(self) -> None:
        """Stop what is still going on, so that it leaves nothing behind."""


@dataclass(frozen=True)
class InOrder:
    """This process, which does one task after another."""

    machine: Machine

    def run(self, tasks: Sequence[Task[DoneT]], progress: Progress) -> Iterator[DoneT]:
        for task in tasks:
            yield task(self.machine, progress)

    def close(self) -> None:
        """Nothing goes on any more."""
