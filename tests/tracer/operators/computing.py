"""Cases of operators that compute: element by element, sums of products, reductions, norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.tracer.operators.probe import Case, Maker, Run, Sizes, one

aten = torch.ops.aten


def _batch_norm(op: str, training: bool) -> Maker:
    def make(s: Sizes) -> Case:
        running = [s("c"), s("c").abs() + 1]
        flags = [0.1, 1e-5] if "no_" in op else [training, 0.1, 1e-5]
        if op.startswith("_batch_norm_"):
            flags = [0.1, 1e-5]
        overload = getattr(aten, op).default
        return one(overload, s("n c h"), s("c"), s("c"), *running, *flags)

    return make


def _bare_batch_norm(s: Sizes) -> Case:
    return one(aten.native_batch_norm.default, s("n c"), None, None, None, None, True, 0.1, 1e-5)


def _dim(op: object, dim: object, *rest: object, words: str = "a b c", **kwargs: object) -> Maker:
    return lambda s: one(op, s(words), dim, *rest, **kwargs)


def _positive(op: object, *args: object) -> Maker:
    return lambda s: one(op, s("a b c").abs() + 0.5, *args)


POINTWISE: list[Maker] = [
    lambda s: one(aten.relu.default, s("a b")),
    lambda s: one(aten.add.Tensor, s("a b c"), s("b c")),
    lambda s: one(aten.add.Tensor, s("a 1 c"), s("b 1")),
    lambda s: one(aten.mul.Tensor, s("a b"), s("a b")),
    lambda s: one(aten.add_.Tensor, s("a b"), s("b")),
    lambda s: one(aten.add.Tensor, s("a b"), s.numbers("a b", 5)),
    lambda s: one(aten.add.Tensor, s("a b"), torch.ones(s["b"], dtype=torch.int64)),
    lambda s: one(aten.add.Tensor, s("a a"), s("a")),
    lambda s: one(aten.maximum.default, s("a b"), s("1 b")),
    lambda s: one(aten.gt.Tensor, s("a b"), s("b")),
    lambda s: one(aten.masked_fill.Scalar, s("a b"), s.mask("b"), 2.0),
    lambda s: one(aten.addcmul.default, s("a b"), s("b"), s("a 1")),
    lambda s: one(aten.pow.Tensor_Scalar, s(""), 2),
]


def _of_truth(op: Any) -> Maker:
    return lambda s: Case((s("a b"),), lambda run, x: run(op, run(aten.gt.Scalar, x, 0)))


_REDUCTIONS: dict[str, list[Maker]] = {
    "sum": [
        _dim(aten.sum.dim_IntList, [0]),
        _dim(aten.sum.dim_IntList, [-1, 0], True),
        lambda s: one(aten.sum.default, s("a b")),
        _dim(aten.sum.dim_IntList, []),
        lambda s: one(aten.sum.default, s("")),
    ],
    "mean": [_dim(aten.mean.dim, [1]), _dim(aten.mean.dim, None)],
    "prod": [_dim(aten.prod.dim_int, 0), lambda s: one(aten.prod.default, s("a b"))],
    "amax": [_dim(aten.amax.default, [1]), _dim(aten.amax.default, [0, 2], True)],
    "amin": [_dim(aten.amin.default, [0])],
    "aminmax": [
        lambda s: one(aten.aminmax.default, s("a b"), dim=0),
        lambda s: one(aten.aminmax.default, s("a b")),
        lambda s: one(aten.aminmax.default, s("a b"), dim=1, keepdim=True),
    ],
    "all": [_dim(aten.all.dim, 1), lambda s: one(aten.all.default, s("a b"))],
    "any": [_dim(aten.any.dim, 0, True), _dim(aten.any.dims, [0, 1])],
    "_is_any_true": [_of_truth(aten._is_any_true.default)],
    "_is_all_true": [_of_truth(aten._is_all_true.default)],
    "norm": [
        _dim(aten.norm.ScalarOpt_dim, 2, [0], True),
        lambda s: one(aten.norm.Scalar, s("a b")),
    ],
    "nansum": [_dim(aten.nansum.default, [0])],
    "var": [_dim(aten.var.correction, [0]), _dim(aten.var.dim, [1])],
    "std": [_dim(aten.std.correction, [1, 2]), lambda s: one(aten.std.default, s("a b"))],
    "var_mean": [_dim(aten.var_mean.correction, [0], keepdim=True)],
    "std_mean": [_dim(aten.std_mean.correction, [-1])],
    "logsumexp": [_dim(aten.logsumexp.default, [0])],
    "linalg_vector_norm": [
        _dim(aten.linalg_vector_norm.default, 2, [0]),
        lambda s: one(aten.linalg_vector_norm.default, s("a b"), 2),
    ],
    "count_nonzero": [
        lambda s: one(aten.count_nonzero.dim_IntList, s("a b").relu(), [0]),
        lambda s: one(aten.count_nonzero.default, s("a b").relu()),
    ],
}

_PRODUCTS: dict[str, list[Maker]] = {
    "mm": [
        lambda s: one(aten.mm.default, s("i k"), s("k j")),
        lambda s: one(aten.mm.default, s("i k"), s.numbers("k j", 9).double()),
    ],
    "mv": [lambda s: one(aten.mv.default, s("i k"), s("k"))],
    "dot": [lambda s: one(aten.dot.default, s("k"), s("k"))],
    "vdot": [lambda s: one(aten.vdot.default, s("k"), s("k"))],
    "bmm": [lambda s: one(aten.bmm.default, s("b i k"), s("b k j"))],
    "addmm": [
        lambda s: one(aten.addmm.default, s("j"), s("i k"), s("k j")),
        lambda s: one(aten.addmm.default, s("i 1"), s("i k"), s("k j"), beta=2, alpha=3),
    ],
    "addmv": [lambda s: one(aten.addmv.default, s("i"), s("i k"), s("k"))],
    "baddbmm": [
        lambda s: one(aten.baddbmm.default, s("b i j"), s("b i k"), s("b k j")),
        lambda s: one(aten.baddbmm.default, s("1 j"), s("b i k"), s("b k j")),
    ],
    "_addmm_activation": [
        lambda s: one(aten._addmm_activation.default, s("j"), s("i k"), s("k j"))
    ],
    "linear": [
        lambda s: one(aten.linear.default, s("n m i"), s("o i"), s("o")),
        lambda s: one(aten.linear.default, s("i"), s("o i")),
    ],
    "_cdist_forward": [
        lambda s: one(aten._cdist_forward.default, s("b p m"), s("b r m"), 2.0, None)
    ],
    "_trilinear": [
        lambda s: one(
            aten._trilinear.default, s("n i"), s("o i j"), s("n j"), [1, 3], [0], [1, 2], [2, 3]
        )
    ],
    "addr": [
        lambda s: one(aten.addr.default, s("i j"), s("i"), s("j")),
        lambda s: one(aten.addr.default, s("1 j"), s("i"), s("j")),
    ],
}

_NORMS: dict[str, list[Maker]] = {
    "native_layer_norm": [
        lambda s: one(
            aten.native_layer_norm.default, s("n a b"), [s["a"], s["b"]], s("a b"), s("a b"), 1e-5
        ),
        lambda s: one(aten.native_layer_norm.default, s("n m a"), [s["a"]], s("a"), None, 1e-5),
        lambda s: one(aten.native_layer_norm.default, s("n a"), [s["a"]], None, None, 1e-5),
    ],
    "rms_norm": [
        lambda s: one(aten.rms_norm.default, s("n a b"), [s["a"], s["b"]], s("a b"), 1e-5)
    ],
    **{
        name: [_batch_norm(name, True), *([_batch_norm(name, False)] if both else [])]
        for name, both in {
            "native_batch_norm": True,
            "_native_batch_norm_legit": True,
            "_batch_norm_with_update": False,
            "_native_batch_norm_legit_no_training": False,
            "_batch_norm_no_update": False,
        }.items()
    },
    "native_group_norm": [
        lambda s: one(
            aten.native_group_norm.default,
            *(s("n gc h"), s("gc"), s("gc")),
            *(s["n"], s["gc"], s["h"], s["g"], 1e-5),
        ),
        lambda s: one(
            aten.native_group_norm.default,
            *(s("n gc h"), None, None, s["n"], s["gc"], s["h"], s["g"], 1e-5),
        ),
    ],
    "_weight_norm_interface": [
        lambda s: one(aten._weight_norm_interface.default, s("o i k"), s("o 1 1"), 0),
        lambda s: one(aten._weight_norm_interface.default, s("o i k"), s("1 1 k"), 2),
    ],
}
if hasattr(aten, "_fused_rms_norm"):  # since torch 2.9
    _NORMS["_fused_rms_norm"] = [
        lambda s: one(aten._fused_rms_norm.default, s("n m a"), [s["a"]], s("a"), 1e-5)
    ]
_NORMS["native_batch_norm"].append(_bare_batch_norm)

_ALONG: dict[str, list[Maker]] = {
    **{
        name: [_dim(op, 0, *rest), _dim(op, -1, *rest)]
        for name, op, rest in (
            ("_softmax", aten._softmax.default, [False]),
            ("_log_softmax", aten._log_softmax.default, [False]),
            ("_safe_softmax", aten._safe_softmax.default, []),
            ("softmax", aten.softmax.int, []),
            ("cumsum", aten.cumsum.default, []),
            ("cumprod", aten.cumprod.default, []),
            ("cummax", aten.cummax.default, []),
            ("cummin", aten.cummin.default, []),
            ("logcumsumexp", aten.logcumsumexp.default, []),
        )
    },
}
_ALONG["_softmax"].append(lambda s: one(aten._softmax.default, s(""), 0, False))


def _across(op: Any, *args: Any) -> Maker:
    """Two parameters are stacked, and the operator compares them place by place."""

    def make(s: Sizes) -> Case:
        def body(run: Run, one_: Tensor, two: Tensor) -> Any:
            return run(op, run(aten.stack.default, [one_, two], -1), *args)

        return Case((s("a b"), s("a b")), body)

    return make


_ALONG["_softmax"].append(_across(aten._softmax.default, -1, False))
_ALONG["cumsum"].append(_across(aten.cumsum.default, 2))
_NORMS["rms_norm"].append(_across(aten.rms_norm.default, [2], None, 1e-5))

CASES: dict[str, list[Maker]] = {
    **_REDUCTIONS,
    **_PRODUCTS,
    **_NORMS,
    **_ALONG,
    "fill": [lambda s: one(aten.fill_.Scalar, s("a b"), 2.0)],
    "zero": [lambda s: one(aten.zero_.default, s("a b"))],
    "copy": [
        lambda s: one(aten.copy_.default, s("a b"), s("a b")),
        lambda s: one(aten.copy_.default, s("a b"), s("b")),
    ],
    "masked_fill": [
        lambda s: one(aten.masked_fill.Scalar, s("a b"), s.mask("b"), 2.0),
        lambda s: one(aten.masked_fill.Tensor, s("a b"), s.mask("a 1"), s("")),
    ],
    "_prelu_kernel": [lambda s: one(aten._prelu_kernel.default, s("n c h"), s("1 c 1"))],
    "where": [
        lambda s: one(aten.where.self, s.mask("a 1"), s("a b"), s("b")),
        lambda s: one(aten.where.self, torch.ones(s["b"], dtype=torch.bool), s("a b"), s("a b")),
    ],
    "floor_divide": [_positive(aten.floor_divide.Scalar, 0.3)],
    "hardswish": [lambda s: one(aten.hardswish.default, s("a b"))],
}
