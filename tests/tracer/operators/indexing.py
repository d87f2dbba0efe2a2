"""Cases of operators that look up, rank and scatter; `chosen` gives indices that name units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.tracer.operators.probe import Case, Maker, Run, Sizes, one

aten = torch.ops.aten
TRUTH = torch.bool


def _ranking(run: Run, scores: Tensor) -> Tensor:
    index: Tensor = run(aten.topk.default, scores, 2)[1]
    return index


def chosen(use: Callable[[Run, Sizes, Tensor, Tensor], Any], words: str, scores: str) -> Maker:
    """Return a case that looks up in a tensor with the indices of a top-2 over scores."""

    def make(s: Sizes) -> Case:
        def body(run: Run, given: Tensor, ranked: Tensor) -> Any:
            return use(run, s, given, _ranking(run, ranked))

        return Case((s(words), s(scores)), body)

    return make


def _sourced(op: Any, words: str) -> Maker:
    """Rows of a source are written where the largest scores are."""

    def make(s: Sizes) -> Case:
        def body(run: Run, given: Tensor, scores: Tensor, source: Tensor) -> Any:
            return run(op, given, 0, run(aten.argmax.default, scores, 1), source)

        return Case((s(words), s("n e"), s("n d")), body)

    return make


def _indices_written(op: str) -> Maker:
    """Indices are themselves what is written, so that their numbers end up in the result."""

    def make(s: Sizes) -> Case:
        table = torch.zeros(s["n"], 4, dtype=torch.int64)
        places = torch.arange(2).repeat(s["n"], 1)

        def body(run: Run, scores: Tensor) -> Any:
            ranks = _ranking(run, scores)
            if op == "scatter":
                return run(aten.scatter.src, table, 1, places, ranks)
            if op == "index_put":
                return run(aten.index_put.default, table, [None, places[0]], ranks)
            return run(aten.index_add.default, table, 1, places[0], ranks)

        return Case((s("n e"),), body)

    return make


def _domain(steps: Callable[[Run, Tensor], Any]) -> Maker:
    return lambda s: Case((s("n e"),), lambda run, x: steps(run, _ranking(run, x)))


def _along(op: Any, *rest: Any) -> list[Maker]:
    return [
        lambda s: one(op, s("a b c"), *rest, 0),
        lambda s: one(op, s("a b c"), *rest, -1),
    ]


def _masked_rows(s: Sizes) -> Case:
    return one(aten.index_put.default, s("a b"), [s.mask("a")], s("b"))


_DOMAINS: list[Maker] = [
    _domain(lambda run, i: run(aten.view.default, i, [-1])),
    _domain(lambda run, i: run(aten.cat.default, [run(aten.t.default, i), run(aten.t.default, i)])),
    _domain(lambda run, i: run(aten.eq.Scalar, i, 1)),
    _domain(lambda run, i: run(aten.add.Tensor, i, 1)),
    _domain(lambda run, i: run(aten._to_copy.default, i, dtype=torch.float64)),
    _domain(lambda run, i: run(aten.sum.dim_IntList, i, [1])),
    _domain(lambda run, i: run(aten.cat.default, [i, torch.zeros_like(i)])),
    _domain(lambda run, i: run(aten.index_select.default, i, 1, torch.tensor([1, 0]))),
    _domain(lambda run, i: run(aten.stack.default, [i, i], 1)),
]


def _bags(op: Any, mode: int, *weights: Tensor) -> Maker:
    rest = (torch.tensor([0, 1]), False, mode, False, *weights)
    return lambda s: one(op, s("v d"), s.numbers("4", 2), *rest)


def _in_bags(op: Any) -> list[Maker]:
    weights = torch.arange(4, dtype=torch.float64)
    return [_bags(op, 0), _bags(op, 1), _bags(op, 2), _bags(op, 0, weights)]


_LOOKUP: dict[str, list[Maker]] = {
    "_embedding_bag": _in_bags(aten._embedding_bag.default),
    "_embedding_bag_forward_only": _in_bags(aten._embedding_bag_forward_only.default),
    "embedding": [
        lambda s: one(aten.embedding.default, s("v d"), s.numbers("n m", 2)),
        lambda s: one(aten.embedding.default, s("v d"), torch.ones(2, 3, dtype=torch.int64)),
        chosen(lambda run, s, x, i: run(aten.embedding.default, x, i), "e d", "n e"),
    ],
    "index": [
        lambda s: one(aten.index.Tensor, s("a b c"), [None, s.numbers("n m", 2)]),
        lambda s: one(aten.index.Tensor, s("a b c"), [s.numbers("n", 2), None, s.numbers("n", 2)]),
        lambda s: one(aten.index.Tensor, s("a b c"), [s.numbers("n 1", 2), s.numbers("m", 2)]),
        lambda s: one(aten.index.Tensor, s("5 b"), [torch.tensor([1, 2, 3])]),
        lambda s: one(aten.index.Tensor, s("5 b"), [torch.tensor([-1])]),
        lambda s: one(aten.index.Tensor, s("a b c"), [None, s.mask("b")]),
        lambda s: one(aten.index.Tensor, s("a b c"), [s.mask("a b")]),
        lambda s: one(aten.index.Tensor, s("a b c"), [s.mask("a"), None, torch.tensor(0)]),
        lambda s: one(aten.index.Tensor, s("a b"), [torch.tensor(1)]),
        lambda s: one(aten.index.Tensor, s("a b"), [torch.ones(2, 3, dtype=torch.int64)]),
        chosen(lambda run, s, x, i: run(aten.index.Tensor, x, [i]), "e d", "n e"),
        chosen(lambda run, s, x, i: run(aten.index.Tensor, x, [None, i]), "d e c", "n e"),
        *_DOMAINS,
    ],
    "_pack_padded_sequence": [
        lambda s: one(
            aten._pack_padded_sequence.default, s("3 5 d"), torch.tensor([5, 2, 1]), True
        ),
        lambda s: one(
            aten._pack_padded_sequence.default, s("5 3 d e"), torch.tensor([5, 5, 2]), False
        ),
    ],
    "index_select": [
        lambda s: one(aten.index_select.default, s("a b"), 1, s.numbers("n", 2)),
        lambda s: one(aten.index_select.default, s("a b"), 1, torch.tensor(1)),
        chosen(
            lambda run, s, x, i: run(
                aten.index_select.default, x, -2, run(aten.select.int, i, 0, 0)
            ),
            *("b e c", "n e"),
        ),
    ],
    "gather": [
        lambda s: one(aten.gather.default, s("a b"), 1, s.numbers("a n", 2)),
        lambda s: one(aten.gather.default, s("4 b"), 1, s.numbers("2 n", 2)),
        lambda s: one(aten.gather.default, s("a b"), 0, torch.ones(2, s["b"], dtype=torch.int64)),
        chosen(lambda run, s, x, i: run(aten.gather.default, x, 1, i), "n e", "n e"),
    ],
    "scatter": [
        lambda s: one(aten.scatter.value, s("a b"), 1, s.numbers("a 2", 2), 1.0),
        lambda s: one(
            aten.scatter.src, s("a b"), 0, s.order(2)[:, None].repeat(1, s["b"]), s("2 b")
        ),
        lambda s: one(aten.scatter.src, s("a 4"), 1, torch.ones(s["a"], 1).long(), s("a 1")),
        chosen(lambda run, s, x, i: run(aten.scatter.value, x, 1, i, 1.0), "n e", "n e"),
        _indices_written("scatter"),
    ],
    "scatter_add": [
        lambda s: one(aten.scatter_add.default, s("a b"), 1, s.numbers("a c", 2), s("a c")),
        lambda s: one(aten.scatter_add.default, s("4 b"), 1, s.numbers("3 c", 2), s("4 c")),
        lambda s: one(
            aten.scatter_add.default, s("a b"), 1, torch.ones(s["a"], 3).long(), s("a 3")
        ),
    ],
    "scatter_reduce": [
        lambda s: one(aten.scatter_reduce.two, s("a b"), 1, s.numbers("a c", 2), s("a c"), "amax"),
    ],
    "index_add": [
        lambda s: one(aten.index_add.default, s("a b"), 0, s.numbers("c", 2), s("c b")),
        lambda s: one(aten.index_add.default, s("a b"), -1, torch.ones(3).long(), s("a 3")),
        _sourced(aten.index_add.default, "e d"),
        _indices_written("index_add"),
    ],
    "index_copy": [
        lambda s: one(aten.index_copy.default, s("a b"), 0, s.order(2), s("2 b")),
    ],
    "index_put": [
        lambda s: one(aten.index_put.default, s("a b"), [s.order(2)], s("2 b")),
        lambda s: one(aten.index_put.default, s("a b"), [None, s.order(2)], s("")),
        lambda s: one(aten.index_put.default, s("a b"), [s.order(2)], s("b")),
        lambda s: one(aten.index_put.default, s("a b"), [s.numbers("c", 2)], s("c b"), True),
        lambda s: one(aten.index_put.default, s("a b"), [s.mask("a")], s("")),
        _masked_rows,
        lambda s: one(aten.index_put.default, s("a b"), [None, s.mask("b")], s("a 1")),
        lambda s: one(aten.index_put.default, s("a b"), [s.mask("a b")], s("")),
        chosen(lambda run, s, x, i: run(aten.index_put.default, x, [i], s("") * 0), "e d", "n e"),
        _indices_written("index_put"),
    ],
    "_index_put_impl": [
        lambda s: one(aten._index_put_impl.default, s("a b"), [s.order(2)], s("2 b")),
    ],
    "slice_scatter": [
        lambda s: one(aten.slice_scatter.default, s("5 b"), s("3 b"), 0, 1, 4),
        lambda s: one(aten.slice_scatter.default, s("a 5"), s("a 2"), -1, 3),
        lambda s: one(aten.slice_scatter.default, s("6 b"), s("3 b"), 0, 0, 6, 2),
    ],
    "select_scatter": [lambda s: one(aten.select_scatter.default, s("a 4 b"), s("a b"), -2, 1)],
    "masked_scatter": [
        lambda s: one(aten.masked_scatter.default, s("3 b"), _column([0, 1, 1], s["b"]), s("2 b")),
        lambda s: one(aten.masked_scatter.default, s("3 b"), _column([0, 1, 1], s["b"]), s("9 b")),
        lambda s: one(aten.masked_scatter.default, s("a 3"), _row([0, 1, 1], s["a"]), s("a 3")),
    ],
}


def _column(truth: list[int], width: int) -> Tensor:
    return torch.tensor(truth, dtype=TRUTH)[:, None].repeat(1, width)


def _row(truth: list[int], height: int) -> Tensor:
    return torch.tensor(truth, dtype=TRUTH).repeat(height, 1)


def _extreme(op: Any, words: str, *rest: Any) -> Maker:
    return lambda s: one(op, s(words), *rest)


_RANKED: dict[str, list[Maker]] = {
    "topk": [
        *_along(aten.topk.default, 2),
        lambda s: one(aten.topk.default, s("a b"), 1),
        lambda s: one(aten.topk.default, s("a 3"), 3),
    ],
    "sort": [*_along(aten.sort.default), lambda s: one(aten.sort.stable, s("a b"), stable=True)],
    "argsort": _along(aten.argsort.default),
    **{
        name: [
            *_along(op),
            _extreme(op, "a b"),
            _extreme(op, "a b", 1, True),
            _extreme(op, "a"),
        ]
        for name, op in (("argmax", aten.argmax.default), ("argmin", aten.argmin.default))
    },
    **{
        name: [
            *_along(packet.dim),
            _extreme(packet.default, "a b"),
            _extreme(packet.dim, "a b", 0, True),
        ]
        for name, packet in (("max", aten.max), ("min", aten.min), ("median", aten.median))
    },
    "mode": [lambda s: one(aten.mode.default, s("a b")), *_along(aten.mode.default)],
    "kthvalue": _along(aten.kthvalue.default, 2),
}

_FREEZING: dict[str, list[Maker]] = {
    "_local_scalar_dense": [lambda s: one(aten._local_scalar_dense.default, s(""))],
    "nonzero": [lambda s: one(aten.nonzero.default, s("a b").relu())],
    "masked_select": [lambda s: one(aten.masked_select.default, s("a b"), s.mask("b"))],
    "histc": [lambda s: one(aten.histc.default, s("a b"), 4)],
    "_unique2": [lambda s: one(aten._unique2.default, s("a b"), True, True)],
    "unique_dim": [lambda s: one(aten.unique_dim.default, s("a b"), 0)],
    "unique_consecutive": [lambda s: one(aten.unique_consecutive.default, s("a b"))],
    "bincount": [
        _domain(lambda run, i: run(aten.bincount.default, run(aten.view.default, i, [-1])))
    ],
    "equal": [lambda s: one(aten.equal.default, s("a b"), s("a b"))],
    "is_nonzero": [lambda s: one(aten.is_nonzero.default, s("1"))],
    "bucketize": [lambda s: one(aten.bucketize.Tensor, s("a b"), s("3").sort()[0])],
    "searchsorted": [lambda s: one(aten.searchsorted.Tensor, s("3").sort()[0], s("a b"))],
    "multinomial": [lambda s: one(aten.multinomial.default, s("a b").abs(), 2)],
    "repeat_interleave": [
        _domain(lambda run, i: run(aten.repeat_interleave.Tensor, run(aten.view.default, i, [-1])))
    ],
}

CASES: dict[str, list[Maker]] = {**_LOOKUP, **_RANKED, **_FREEZING}
