"""Where the CPU seconds of a program go, by wrapping the functions in which they are spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import local
from typing import Any
from unittest.mock import patch

Place = tuple[Any, str]  # an object and the name of its function


class Clock:
    """CPU seconds by name. A call inside another one counts for its own name alone."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._here = local()

    @contextmanager
    def on(self, places: Mapping[str, Sequence[Place]]) -> Iterator[None]:
        """Time the functions in some places, each under a name."""
        with ExitStack() as stack:
            for name, functions in places.items():
                self.spent[name] = 0.0
                for owner, function in functions:
                    timed = self._timed(name, getattr(owner, function))
                    stack.enter_context(patch.object(owner, function, timed))
            yield

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            outer = getattr(self._here, "inside", 0.0)
            self._here.inside = 0.0
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                took = time.thread_time() - began
                self.spent[name] += took - self._here.inside
                self._here.inside = outer + took

        return timed
