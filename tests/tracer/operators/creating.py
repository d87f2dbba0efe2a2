"""Cases of operators that make a tensor, into which others then write."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.tracer.operators.probe import Case, Maker, Run, Sizes

aten = torch.ops.aten
DOUBLE = torch.float64


def _overwritten(op: Any, *, like: bool = False, shaped: bool = True, rest: tuple = ()) -> Maker:
    """A whole parameter is copied into the new tensor."""

    def make(s: Sizes) -> Case:
        def body(run: Run, x: Tensor) -> Any:
            before = ([x] if like else []) + ([[s["a"], s["b"]]] if shaped else [])
            numbers = [item(s) if callable(item) else item for item in rest]
            made = run(op, *before, *numbers, **({} if like else {"dtype": DOUBLE}))
            return run(aten.copy_.default, made, x)

        return Case((s("a b"),), body)

    return make


def _partly(op: Any, *, like: bool = False, rest: tuple = ()) -> Maker:
    """A parameter is copied into the first rows; the others keep their one number."""

    def make(s: Sizes) -> Case:
        def body(run: Run, x: Tensor) -> Any:
            options = {} if like else {"dtype": DOUBLE}
            made = run(op, *([x] if like else []), [s["a"] + 2, s["b"]], *rest, **options)
            run(aten.copy_.default, run(aten.slice.Tensor, made, 0, 0, s["a"]), x)
            return run(aten.clone.default, made), run(aten.t.default, made)

        return Case((s("a b"),), body)

    return make


def _strides(s: Sizes) -> list[int]:
    return [s["b"], 1]


def _scalar(s: Sizes) -> Case:
    def body(run: Run, x: Tensor) -> Any:
        made = run(aten.scalar_tensor.default, 1.0, dtype=DOUBLE)
        return run(aten.add_.Tensor, made, run(aten.sum.default, x))

    return Case((s("a b"),), body)


CASES: dict[str, list[Maker]] = {
    "empty": [_overwritten(aten.empty.memory_format)],
    "zeros": [_overwritten(aten.zeros.default), _partly(aten.zeros.default)],
    "ones": [_overwritten(aten.ones.default), _partly(aten.ones.default)],
    "full": [_overwritten(aten.full.default, rest=(2.0,)), _partly(aten.full.default, rest=(2.0,))],
    "empty_strided": [_overwritten(aten.empty_strided.default, rest=(_strides,))],
    "empty_permuted": [_overwritten(aten.empty_permuted.default, rest=([1, 0],))],
    "scalar_tensor": [_scalar],
    **{
        f"{name}_like": [_overwritten(op.default, like=True, shaped=False, rest=rest)]
        for name, op, rest in (
            ("empty", aten.empty_like, ()),
            ("zeros", aten.zeros_like, ()),
            ("ones", aten.ones_like, ()),
            ("full", aten.full_like, (2.0,)),
            ("rand", aten.rand_like, ()),
            ("randn", aten.randn_like, ()),
        )
    },
    "new_empty": [_overwritten(aten.new_empty.default, like=True)],
    "new_zeros": [_partly(aten.new_zeros.default, like=True)],
    "new_ones": [_partly(aten.new_ones.default, like=True)],
    "new_full": [_partly(aten.new_full.default, like=True, rest=(2.0,))],
    "new_empty_strided": [
        _overwritten(aten.new_empty_strided.default, like=True, rest=(_strides,))
    ],
}
