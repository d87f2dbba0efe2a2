"""Every rule against its operator: what a rule lets move may move, in a run for real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rebasin_cli.tracer.axes.analysis import Analysis
from rebasin_cli.tracer.axes.bindings import Bindings
from rebasin_cli.tracer.rules import RULES
from tests.tracer.operators import computing, creating, indexing, shapes, spatial
from tests.tracer.operators.probe import Maker, Sizes, check, probe

CASES: dict[str, list[Maker]] = {
    "pointwise": computing.POINTWISE,
    **shapes.CASES,
    **computing.CASES,
    **creating.CASES,
    **spatial.CASES,
    **indexing.CASES,
}
MAKERS = [
    pytest.param(maker, id=f"{name}-{number}")
    for name, cases in CASES.items()
    for number, maker in enumerate(cases)
]
SEEDS = ((0, False), (2, True))  # of the sizes, and whether all sizes are equal
MORE_SEEDS = ((1, False), (3, False), (4, True))
UNCOVERED = {
    "torchvision::nms": "torchvision is optional",
    "torchvision::roi_align": "torchvision is optional",
    "torchvision::roi_pool": "torchvision is optional",
    "normal_": "draws numbers: no run repeats another with its units in another order",
    "uniform_": "draws numbers: no run repeats another with its units in another order",
    "_adaptive_avg_pool1d": "no such operator; runs as _adaptive_avg_pool2d",
    "max_pool1d_with_indices": "runs as max_pool2d_with_indices",
    "max_unpool1d": "no such operator; runs as max_unpool2d",
    "fractional_max_pool1d": "no such operator",
    **(
        {} if hasattr(torch.ops.aten, "_fused_rms_norm") else {"_fused_rms_norm": "since torch 2.9"}
    ),
}


def hold(maker: Maker, seeds: Sequence[tuple[int, bool]] = SEEDS) -> None:
    for seed, equal in seeds:
        check(probe(maker(Sizes(seed, equal=equal))), seed)


@pytest.mark.parametrize("maker", MAKERS)
def test_what_the_rule_lets_move_may_move(maker: Maker) -> None:
    hold(maker)


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS)
def test_what_the_rule_lets_move_may_move_in_other_sizes(maker: Maker) -> None:
    hold(maker, MORE_SEEDS)


def test_every_rule_is_tried() -> None:
    assert CASES.keys() - {"pointwise"} == RULES.keys() - UNCOVERED.keys()
    assert UNCOVERED.keys() <= RULES.keys()


def forgotten(*_: Any, **__: Any) -> None:
    """Do nothing, in place of what a rule has to say."""


def caught(name: str) -> None:
    with pytest.raises(AssertionError):
        for maker in CASES[name]:
            hold(maker)


@pytest.mark.parametrize(
    "name", ["_softmax", "_log_softmax", "cumsum", "cummax", "rms_norm", "logcumsumexp"]
)
def test_a_rule_that_forgets_to_mix_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Analysis, "mix", forgotten)
    caught(name)


@pytest.mark.parametrize(
    "name",
    [
        *("pointwise", "mm", "bmm", "linear", "convolution", "cat", "glu", "native_layer_norm"),
        *("native_batch_norm", "native_group_norm", "gather", "index_put", "slice_scatter", "copy"),
    ],
)
def test_a_rule_that_forgets_to_tie_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bindings, "unify", forgotten)
    caught(name)


@pytest.mark.parametrize(
    "name",
    [
        *("cumsum", "convolution", "avg_pool2d", "tril", "roll", "unfold", "view_as_complex"),
        *("embedding", "index", "scatter", "nonzero", "grid_sampler_2d", "im2col", "_fft_c2c"),
        *("as_strided", "_fft_r2c"),
    ],
)
def test_a_rule_that_forgets_to_freeze_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Analysis, "freeze", forgotten)
    caught(name)
