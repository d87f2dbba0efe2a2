"""Cases of operators that only rearrange axes."""

from __future__ import annotations

from typing import Any

import torch

from tests.tracer.operators.probe import Case, Maker, Run, Sizes, one
from tests.tracer.operators.shuffles import SHUFFLES

aten = torch.ops.aten


def _view(op: Any) -> list[Maker]:
    return [
        lambda s: one(op, s("a b c"), [s["a"], s["bc"]]),
        lambda s: one(op, s("a bc"), [s["a"], s["b"], s["c"]]),
        lambda s: one(op, s("ab c"), [s["a"], s["b"], 1, s["c"]]),
        lambda s: one(op, s("a b c"), [-1]),
    ]


def _crossing(s: Sizes) -> Case:
    return one(aten.view.default, s("3 4"), [2, 6])


def _fused(s: Sizes) -> Case:
    """Three projections in one, taken apart: each has units of its own."""

    def body(run: Run, weight: torch.Tensor) -> Any:
        apart = run(aten.view.default, weight, [3, s["h"], s["d"], s["i"]])
        one_, two, three = run(aten.unbind.int, apart, 0)
        return run(aten.mul.Tensor, one_, two), run(aten.softmax.int, three, 1)

    return Case((s("3hd i"),), body)


def _interleaved(s: Sizes) -> Case:
    def body(run: Run, weight: torch.Tensor) -> Any:
        apart = run(aten.view.default, weight, [s["h"], 3 * s["d"], s["i"]])
        return run(aten.split.Tensor, apart, s["d"], 1)

    return Case((s("h3d i"),), body)


def _sliding_windows(s: Sizes) -> Case:
    """Windows of 4 that begin at every second of 6 places."""
    step = s["b"]
    size, strides = [s["a"], 2, 4, step], [6 * step, 2 * step, step, 1]
    return one(aten.as_strided.default, s("a 6 b"), size, strides)


def _windows_of_a_view(s: Sizes) -> Case:
    step, size = s["ab"], [s["a"], 2, 4, s["b"]]

    def body(run: Run, x: torch.Tensor) -> Any:
        turned = run(aten.transpose.int, x, 0, 1)
        return run(aten.as_strided.default, turned, size, [s["b"], 2 * step, step, 1])

    return Case((s("6 a b"),), body)


def _part_of_memory(s: Sizes) -> Case:
    """A view that steps over what lies between its rows, and back to it."""

    def body(run: Run, x: torch.Tensor) -> Any:
        part = run(aten.slice.Tensor, x, 1, 0, 2)
        return run(aten.as_strided.default, part, [6], [1])

    return Case((s("3 3"),), body)


def _across_a_gap(s: Sizes) -> Case:
    """Rows of two, read on as if nothing lay between them."""

    def body(run: Run, x: torch.Tensor) -> Any:
        part = run(aten.slice.Tensor, x, 1, 0, 2)
        return run(aten.as_strided.default, part, [2, 2], [1, 2])

    return Case((s("4 3"),), body)


def _beyond_its_end(s: Sizes) -> Case:
    """Rows of three that go on into what lies behind the first half."""

    def body(run: Run, x: torch.Tensor) -> Any:
        half = run(aten.slice.Tensor, x, 0, 0, 6)
        return run(aten.as_strided.default, run(aten.view.default, half, [2, 3]), [4, 3], [3, 1])

    return Case((s("12"),), body)


def _laid_out_anew(s: Sizes) -> Case:
    """The layout that a kernel gives its result, without a change of what stands where."""

    def body(run: Run, x: torch.Tensor) -> Any:
        return run(aten.as_strided.default, x, list(x.shape), list(x.stride()))

    return Case((s("a b c"),), body)


def _rejoined(s: Sizes) -> Case:
    """Stacked, and seen as one axis again."""

    def body(run: Run, one_: torch.Tensor, two: torch.Tensor) -> Any:
        both = run(aten.stack.default, [one_, two], 0)
        flat = run(aten.view.default, both, [-1, s["b"]])
        return run(aten.select.int, both, 0, 1), run(aten.slice.Tensor, flat, 0, 0, s["a"])

    return Case((s("a b"), s("a b")), body)


def _cut_twice(s: Sizes) -> Case:
    fixed = s("b c")

    def body(run: Run, table: torch.Tensor) -> Any:
        one_ = run(aten.slice.Tensor, table, 0, 0, s["a"])
        two = run(aten.slice.Tensor, table, 0, s["a"], 2 * s["a"] + 1)
        return run(aten.sum.dim_IntList, one_, [0]), run(aten.mm.default, two, fixed)

    return Case((s("4a b"),), body)


def _stepped(size: int, start: int, step: int) -> Maker:
    return lambda s: one(aten.slice.Tensor, s(f"{size} b"), 0, start, None, step)


def _pieces(op: Any, count: Any, dim: int = 0) -> Maker:
    return lambda s: one(op, s("6 b"), count, dim)


def _matrix(op: Any) -> Maker:
    return lambda s: one(op, s("a b"))


_SAME: dict[str, Any] = {
    "clone": aten.clone.default,
    "detach": aten.detach.default,
    "alias": aten.alias.default,
    "lift_fresh": aten.lift_fresh.default,
    "lift": aten.lift.default,
    "contiguous": aten.contiguous.default,
    "positive": aten.positive.default,
    "t": aten.t.default,
    "numpy_T": aten.numpy_T.default,
}

CASES: dict[str, list[Maker]] = {
    **{name: [_matrix(op)] for name, op in _SAME.items()},
    "_to_copy": [lambda s: one(aten._to_copy.default, s("a b"), dtype=torch.float32)],
    "view": [*_view(aten.view.default), _crossing, _fused, _interleaved, *SHUFFLES],
    "_unsafe_view": _view(aten._unsafe_view.default),
    "reshape": _view(aten.reshape.default),
    "view_copy": _view(aten.view_copy.default),
    "_reshape_alias": [
        lambda s: one(aten._reshape_alias.default, s("a b"), [s["ab"]], [1]),
    ],
    "unsqueeze": [
        lambda s: one(aten.unsqueeze.default, s("a b"), 1),
        lambda s: one(aten.unsqueeze.default, s("a b"), -1),
    ],
    "squeeze": [
        lambda s: one(aten.squeeze.default, s("1 a 1 b")),
        lambda s: one(aten.squeeze.dim, s("1 a 1 b"), -2),
        lambda s: one(aten.squeeze.dims, s("1 a 1 b"), [0, 1]),
    ],
    "permute": [lambda s: one(aten.permute.default, s("a b c"), [2, 0, -2])],
    "transpose": [lambda s: one(aten.transpose.int, s("a b c"), 0, -1)],
    "expand": [
        lambda s: one(aten.expand.default, s("a 1"), [s["c"], -1, s["b"]]),
        lambda s: one(aten.expand.default, s("1"), [s["a"]]),
    ],
    "repeat": [lambda s: one(aten.repeat.default, s("a b"), [2, 1, 3])],
    "select": [
        lambda s: one(aten.select.int, s("a b c"), 1, 0),
        lambda s: one(aten.select.int, s("a b c"), -1, -1),
        lambda s: one(aten.select.int, s("5 b"), 0, 2),
    ],
    "slice": [
        lambda s: one(aten.slice.Tensor, s("5 b"), 0, 1, 4),
        lambda s: one(aten.slice.Tensor, s("5 b"), 0, -2),
        lambda s: one(aten.slice.Tensor, s("5 b"), 0, 3, 3),
        lambda s: one(aten.slice.Tensor, s("a b"), 1, 0, 99),
        _stepped(6, 0, 2),
        _stepped(6, 1, 2),
        _stepped(6, 0, 3),
        _stepped(6, 1, 3),
        _stepped(8, 2, 4),
        _stepped(5, 0, 2),
        _stepped(6, 3, 2),
        _cut_twice,
    ],
    "split": [_pieces(aten.split.Tensor, 2), _pieces(aten.split.Tensor, 4)],
    "split_with_sizes": [_pieces(aten.split_with_sizes.default, [1, 2, 3])],
    "chunk": [_pieces(aten.chunk.default, 3)],
    "unsafe_split": [_pieces(aten.unsafe_split.Tensor, 4)],
    "unsafe_chunk": [_pieces(aten.unsafe_chunk.default, 2)],
    "unbind": [
        lambda s: one(aten.unbind.int, s("a b")),
        lambda s: one(aten.unbind.int, s("a b c"), -2),
    ],
    "cat": [
        lambda s: one(aten.cat.default, [s("a b"), s("c b")]),
        lambda s: one(aten.cat.default, [s("a b"), s("a c"), s("a b")], -1),
        lambda s: one(aten.cat.default, [s("1 b"), s("1 b")]),
        lambda s: one(aten.cat.default, [s("1 b"), s("a b")]),
        lambda s: one(aten.cat.default, [s("0"), s("a b")]),
        lambda s: one(aten.cat.default, [s("1 b"), s("a b")[:0], s("7 b")]),
        lambda s: one(aten.cat.default, [s("a b")]),
        lambda s: one(aten.cat.default, [s("a b"), s.numbers("c b", 9).double()]),
    ],
    "stack": [
        lambda s: one(aten.stack.default, [s("a b"), s("a b")], 1),
        lambda s: one(aten.stack.default, [s(""), s("")], 0),
        _rejoined,
    ],
    "constant_pad_nd": [
        lambda s: one(aten.constant_pad_nd.default, s("a b"), [1, 2]),
        lambda s: one(aten.constant_pad_nd.default, s("a b"), [0, 0, 2, 0], 1.0),
        lambda s: one(aten.constant_pad_nd.default, s("5 b"), [0, 0, -1, -2]),
        lambda s: one(aten.constant_pad_nd.default, s("5 b"), [0, 0, -2, 1]),
    ],
    "flip": [lambda s: one(aten.flip.default, s("a b"), [0])],
    "roll": [
        lambda s: one(aten.roll.default, s("a b"), [1], [0]),
        lambda s: one(aten.roll.default, s("a b"), [1]),
    ],
    "tril": [lambda s: one(aten.tril.default, s("n a a"))],
    "triu": [lambda s: one(aten.triu.default, s("a b"), 1)],
    "glu": [
        lambda s: one(aten.glu.default, s("n 2a"), -1),
        lambda s: one(aten.glu.default, s("2a n"), 0),
    ],
    "unfold": [lambda s: one(aten.unfold.default, s("a 5 b"), 1, 3, 1)],
    "view_as_complex": [lambda s: one(aten.view_as_complex.default, s("a b 2"))],
    "view_as_real": [
        lambda s: one(aten.view_as_real.default, s("a b", dtype=torch.complex128)),
    ],
    "as_strided": [
        lambda s: one(aten.as_strided.default, s("a b"), [s["a"], s["b"]], [s["b"], 1]),
        lambda s: one(aten.as_strided.default, s("a b"), [s["ab"]], [1]),
        lambda s: one(aten.as_strided.default, s("3 3"), [3, 3], [1, 3]),
        _sliding_windows,
        _windows_of_a_view,
        lambda s: one(aten.as_strided.default, s("3 3"), [3], [4]),
        lambda s: one(aten.as_strided.default, s("3 5"), [3, 5], [1, 3]),
        lambda s: one(aten.as_strided.default, s("4 3"), [3, 3], [3, 1], 3),
        lambda s: one(aten.as_strided.default, s("4 3"), [2, 3], [5, 1]),
        _part_of_memory,
        _laid_out_anew,
        _across_a_gap,
        _beyond_its_end,
        lambda s: one(aten.as_strided.default, s("4 3"), [3, 3], [3, 1], 1),
    ],
}
