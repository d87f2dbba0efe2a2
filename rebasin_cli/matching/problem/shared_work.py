"""Work in fixed pieces, of which every free thread takes the next.

How the work is cut depends on shapes alone, and what the pieces return is put together in their
order: the result has the same bits for any number of threads and any load of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from threading import Lock
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from rebasin_cli.tensors.device_memory import empty_cache, tell_shortage

ROWS = 256  # of a product, at least: in pieces of half as many rows it takes a tenth longer
ALIKE = 2  # of the largest tensors, copied at a time
HELPERS = 63  # threads asked to help, at most; those that are not free are not waited for

P = ParamSpec("P")
R = TypeVar("R")
WorkT = TypeVar("WorkT")


class InlineExecutor(Executor):
    """The thread that asks does the work, before it goes on.

    A hand-over costs as much as a visit of a small family: a third of the time of small networks.
    """

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future = Future[R]()
        future.set_result(fn(*args, **kwargs))
        return future


INLINE = InlineExecutor()


class _SharedPieces(Generic[WorkT, R]):
    """Pieces of work that all who take part take one after another; found: by number."""

    def __init__(self, work: Callable[[WorkT], R], items: Iterable[WorkT]) -> None:
        self.found = dict[int, R]()
        self._work, self._left, self._lock = work, iter(enumerate(items)), Lock()

    def take(self) -> None:
        """Do pieces until none is left."""
        while True:
            with self._lock:
                one = next(self._left, None)
            if one is None:
                return
            self.found[one[0]] = self._work(one[1])


def _help(shared: ReferenceType[_SharedPieces[Any, Any]]) -> None:
    """Take part in work, if it is still going on."""
    going_on = shared()
    if going_on is not None:
        going_on.take()


def share(pool: Executor, work: Callable[[WorkT], R], items: Sequence[WorkT]) -> list[R]:
    """Return what `work` makes of each item, done by this thread and all that are free.

    A thread of the pool may share its own work: it waits for no piece that nobody has begun.
    """
    if pool is INLINE or len(items) < 2:
        return [work(item) for item in items]
    shared = _SharedPieces(work, items)
    # By a weak reference: what is cancelled stays in the queue until a thread is free to throw it
    # away, and operands of dozens of products stayed with it (2 GB of a model of 1 B parameters).
    helpers = [pool.submit(_help, ref(shared)) for _ in range(min(len(items) - 1, HELPERS))]
    try:
        shared.take()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        for helper in begun:
            helper.exception()  # waits: no thread writes into what the caller has left
    for helper in begun:
        helper.result()
    return [shared.found[k] for k in range(len(items))]


def portions(items: Sequence[WorkT], sizes: Sequence[int]) -> Iterator[Sequence[WorkT]]:
    """Yield items to be shared, no more at a time than ALIKE of the largest take together."""
    room, start, total = ALIKE * max(sizes, default=0), 0, 0
    for k, size in enumerate(sizes):
        if total + size > room:
            yield items[start:k]
            start, total = k, 0
        total += size
    if start < len(items):
        yield items[start:]


def add_product(pool: Executor, values: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Add rows (n, m) times columns (k, m) transposed to values (n, k), some rows a piece.

    Each row is the same sum whatever the others are, but a library may add it up in another
    order for another number of rows: hence fixed pieces, and each on one thread. What does not
    fit on the device of the values is added in halves of all rows, and so on down to one piece,
    which is added on the CPU; so is all of it if rows and columns had no room beside the values.
    """
    if values.device != rows.device:
        rows, columns = rows.cpu(), columns.cpu()
        here = values.cpu()
        add_product(pool, here, rows, columns)
        if here is not values:
            values.copy_(here)
        return
    count = max(1, -(-len(values) // ROWS))
    pieces = list(zip(values.chunk(count), rows.chunk(count), strict=True))
    if values.device.type == "cpu":
        share(pool, lambda piece: piece[0].addmm_(piece[1], columns.T), pieces)
    else:
        _add_halving(values, rows, columns, step=len(pieces[0][0]) if len(values) else 1)


def _add_halving(values: Tensor, rows: Tensor, columns: Tensor, step: int) -> None:
    """Add a product on a device, in two parts where it has no room for the whole.

    step: rows that are not parted, but added on the CPU.
    """
    try:
        values.addmm_(rows, columns.T)
        return
    except torch.OutOfMemoryError:
        tell_shortage(values.device)
    empty_cache()
    if len(values) > step:
        middle = step * (-(-len(values) // step) // 2)
        for part in (slice(None, middle), slice(middle, None)):
            _add_halving(values[part], rows[part], columns, step)
        return
    here = values.cpu()
    here.addmm_(rows.cpu(), columns.cpu().T)
    values.copy_(here)
