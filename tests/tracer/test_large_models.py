"""Models that are too large to be run: recorded without memory, proved by a small copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rebasin_cli.errors import MachineError
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.tracer.proof.unproved import (
    NOT_NUMBERS,
    OTHER_COPY,
    TOO_LARGE,
    of_copy,
    of_idle_copy,
)
from rebasin_cli.tracer.trace import trace

WIDE = 40_000  # 1.3 billion parameters: 10 GB in float64, no memory on fake tensors


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    """A residual network whose `steer` looks at numbers that the parameters decide."""

    def __init__(self, width: int, hidden: int, blocks: int, steer: bool = False) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(5, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(blocks))
        self.steer = steer

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        if self.steer and float(x.sum()) > 1e9:
            return self.out(-x)
        for block in self.blocks:
            x = block(x)
        return self.out(x)


def subject(build: Callable[[], nn.Module]) -> Subject:
    examples = (Example((torch.randn(2, 5),)), Example((torch.randn(3, 5),)))
    return Subject("net", lambda: build().eval(), lambda _: examples)


LARGE = subject(lambda: Net(8_000, WIDE, 2))
SMALL = subject(lambda: Net(12, 20, 2))


def test_a_large_model_is_proved_by_its_small_copy() -> None:
    found = trace(replace(LARGE, small=SMALL))
    assert found.proof is not None and found.proof.on_small
    assert dump(found.spec).splitlines()[2:] == dump(trace(SMALL).spec).splitlines()[2:]
    assert found.bound.groups["stream"].size == 8_000


def test_what_buffers_are_uniform_is_told_by_the_small_copy() -> None:
    class Loaded(Net):
        def __init__(self, width: int, hidden: int) -> None:
            super().__init__(width, hidden, 2)
            for block in self.blocks:
                block.register_buffer("load", torch.zeros(width))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + sum(self.out(block.load) for block in self.blocks)

    found = trace(
        replace(subject(lambda: Loaded(8_000, WIDE)), small=subject(lambda: Loaded(12, 20)))
    )
    assert found.proof is not None and found.proof.on_small
    assert found.explicit.buffers == ("blocks.0.load", "blocks.1.load")


def test_a_small_copy_of_another_structure_proves_nothing() -> None:
    found = trace(replace(LARGE, small=subject(lambda: Net(12, 20, 1))))
    assert (found.proof, found.doubt) == (None, OTHER_COPY)


def test_a_large_model_without_a_small_copy_is_not_proved() -> None:
    found = trace(LARGE)
    assert (found.proof, found.doubt) == (None, TOO_LARGE)
    assert found.share > 0.99


def test_a_small_copy_that_was_not_validated_says_why() -> None:
    class Lost(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    found = trace(replace(LARGE, small=subject(lambda: Lost(12, 20, 2))))
    assert found.proof is None and found.doubt == of_copy(NOT_NUMBERS)
    assert found.doubt.why.startswith("of the small copy that was run in its place, its outputs")


def test_a_small_copy_that_makes_no_use_of_a_part_proves_nothing() -> None:
    class Idle(Net):
        def __init__(self, width: int, hidden: int) -> None:
            super().__init__(width, hidden, 1)
            self.aside = Block(5, 7)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * self.aside(x)[..., :3]

    large, small = subject(lambda: Idle(8_000, WIDE)), subject(lambda: Idle(12, 20))
    found = trace(replace(large, small=small))
    names = ["aside.up.weight", "aside.up.bias", "aside.down.weight"]
    assert (found.proof, found.doubt) == (None, of_idle_copy(names))
    assert trace(small).proof is not None


def test_a_large_model_that_looks_at_numbers_is_refused() -> None:
    steered = subject(lambda: Net(8_000, WIDE, 2, steer=True))
    with pytest.raises(MachineError, match=r"net has 1\.3 billion parameters, .* a real run tells"):
        trace(replace(steered, small=SMALL))


def test_a_trace_is_the_same_each_time() -> None:
    one, again = trace(SMALL), trace(SMALL)
    assert one.proof is not None and one.proof == again.proof
