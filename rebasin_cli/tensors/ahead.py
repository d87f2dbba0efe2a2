"""Values made in threads while those before them are still being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

MadeT = TypeVar("MadeT")


def made_ahead(
    makers: Iterable[Callable[[], MadeT]], executor: Executor, *, most: int
) -> Iterator[MadeT]:
    """Yield what each of `makers` returns, in their order, made by an executor.

    most: how many may be under way or wait to be used; the next is begun as soon as one is taken.
    Raises what a maker raises, at its turn.
    """
    if most == 0:
        yield from (make() for make in makers)
        return
    waiting: deque[Future[MadeT]] = deque()
    for make in makers:
        if len(waiting) == most:
            yield waiting.popleft().result()
        waiting.append(executor.submit(make))
    while waiting:
        yield waiting.popleft().result()
