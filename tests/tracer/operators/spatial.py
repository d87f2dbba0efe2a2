"""Cases of operators on images and signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tests.tracer.operators.probe import Case, Maker, Run, Sizes, one

aten = torch.ops.aten
PLACES = ("", "5", "4 5", "4 3 4")


def _conv(
    words: str, weight: str, bias: str, *, groups: str = "1", transposed: bool = False, pad: int = 1
) -> Maker:
    def make(s: Sizes) -> Case:
        x, w = s(words), s(weight)
        rank = x.dim() - 2
        zero, ones = [0] * rank, [1] * rank
        return one(
            aten.convolution.default,
            *(x, w, s(bias) if bias else None, ones, [pad] * rank, ones),
            *(transposed, zero, s[groups]),
        )

    return make


def _places(op: Any, rank: int, *args: Any) -> Maker:
    return lambda s: one(op, s(f"n c {PLACES[rank]}"), *args)


def _pools(name: str, rank: int, *args: Any) -> list[Maker]:
    return [_places(getattr(aten, f"{name}{rank}d").default, rank, *args)]


def _indexed_pool(rank: int) -> Maker:
    """Pool with indices, and put the values back where they were."""

    def make(s: Sizes) -> Case:
        pool = getattr(aten, f"max_pool{rank}d_with_indices").default
        back = getattr(aten, f"max_unpool{rank}d").default
        size, window = [4, 6, 4][:rank], [2] * rank

        def body(run: Run, x: torch.Tensor) -> Any:
            values, index = run(pool, x, window)
            return run(back, values, index, size, *([window, [0] * rank] if rank == 3 else ()))

        return Case((s(f"n c {' '.join(map(str, size))}"),), body)

    return make


def _constant_unpool(s: Sizes) -> Case:
    index = torch.stack([torch.arange(4).roll(k) for k in range(s["nc"])]).view(
        s["n"], s["c"], 4, 1
    )
    return one(aten.max_unpool2d.default, s("n c 4 1"), index, [4, 1])


def _random_pool(rank: int) -> Maker:
    """The windows of each channel are drawn: the samples are numbers of the code."""

    def make(s: Sizes) -> Case:
        op = getattr(aten, f"fractional_max_pool{rank}d").default
        samples = torch.rand(s["n"], s["c"], rank, generator=torch.Generator().manual_seed(0))

        def body(run: Run, x: torch.Tensor) -> Any:
            return run(op, x, [2] * rank, [3] * rank, samples.double())

        return Case((s(f"n c {' '.join(['7'] * rank)}"),), body)

    return make


def _resize(name: str, rank: int) -> list[Maker]:
    smooth = not any(word in name for word in ("nearest", "exact"))
    size = [6, 7, 5][:rank]
    return [
        lambda s: one(
            getattr(aten, name).default,
            s(f"n c {PLACES[rank]}"),
            size,
            *([False] if smooth else ()),
        )
    ]


def _sampler(rank: int) -> list[Maker]:
    op = getattr(aten, f"grid_sampler_{rank}d").default
    grid: Sequence[str] = ("n a b 2", "n a b e 3")
    return [lambda s: one(op, s(f"n c {PLACES[rank]}"), s(grid[rank - 2]), 0, 0, True)]


_POOLS: dict[str, list[Maker]] = {}
for _rank in (1, 2, 3):
    _windows, _pads = [2] * _rank, [1, 2] * _rank
    for _name, _args in {
        "avg_pool": [_windows],
        "max_pool": [_windows],
        "adaptive_avg_pool": [_windows],
        "adaptive_max_pool": [_windows],
        "reflection_pad": [_pads],
        "replication_pad": [_pads],
    }.items():
        _POOLS[f"{_name}{_rank}d"] = _pools(_name, _rank, *_args)
    _POOLS[f"upsample_nearest{_rank}d"] = _resize(f"upsample_nearest{_rank}d", _rank)
    _POOLS[f"_upsample_nearest_exact{_rank}d"] = _resize(f"_upsample_nearest_exact{_rank}d", _rank)
    if _rank > 1:
        _POOLS[f"_adaptive_avg_pool{_rank}d"] = _pools("_adaptive_avg_pool", _rank, _windows)
        _POOLS[f"max_pool{_rank}d_with_indices"] = [
            _places(getattr(aten, f"max_pool{_rank}d_with_indices").default, _rank, _windows)
        ]
        _POOLS[f"max_unpool{_rank}d"] = [_indexed_pool(_rank)]
        _POOLS[f"fractional_max_pool{_rank}d"] = [_random_pool(_rank)]
_POOLS["max_unpool2d"].append(_constant_unpool)
_POOLS["avg_pool2d"] += [
    lambda s: one(aten.avg_pool2d.default, s("n c 4 b"), [2, 1], [2, 1]),
    lambda s: one(aten.avg_pool2d.default, s("n c 4 b"), [1], [1]),
    lambda s: one(aten.avg_pool2d.default, s("n c 4 3"), [2, 1], [1, 2]),
    lambda s: one(aten.avg_pool2d.default, s("n c 4 3"), [3, 1], [1, 1], [1, 0], False, False),
    lambda s: one(aten.avg_pool2d.default, s("n c 4 3"), [1, 2]),
]
_POOLS["max_pool2d_with_indices"] += [
    lambda s: one(aten.max_pool2d_with_indices.default, s("n c 4 3"), [2, 1], [2, 1]),
]

CASES: dict[str, list[Maker]] = {
    "convolution": [
        _conv("n i 5", "o i 3", "o"),
        _conv("n i 4 5", "o i 3 3", ""),
        _conv("n i 3 3", "o i 1 1", "o", pad=0),
        _conv("n i 3 3 3", "o i 3 3 3", "o"),
        _conv("n gi 5", "go i 3", "go", groups="g"),
        _conv("n g 5", "g 1 3", "g", groups="g"),
        _conv("n g 5", "go 1 3", "", groups="g"),
        _conv("n i 4 5", "i o 3 3", "o", transposed=True),
        _conv("n gi 5", "gi o 3", "go", groups="g", transposed=True),
        _conv("n i 5", "i i 3", "i"),
    ],
    **_POOLS,
    **{
        name: _resize(name, rank)
        for name, rank in {
            "upsample_linear1d": 1,
            "upsample_bilinear2d": 2,
            "_upsample_bilinear2d_aa": 2,
            "upsample_bicubic2d": 2,
            "_upsample_bicubic2d_aa": 2,
            "upsample_trilinear3d": 3,
        }.items()
    },
    "grid_sampler_2d": _sampler(2),
    "grid_sampler_3d": _sampler(3),
    "_fft_c2c": [
        lambda s: one(aten._fft_c2c.default, s("a b", dtype=torch.complex128), [1], 0, True),
        lambda s: one(aten._fft_c2c.default, s("a b c", dtype=torch.complex128), [0, 2], 0, True),
    ],
    "_fft_r2c": [lambda s: one(aten._fft_r2c.default, s("a 4 b"), [1], 0, True)],
    "_fft_c2r": [lambda s: one(aten._fft_c2r.default, s("a 3", dtype=torch.complex128), [1], 0, 4)],
    "im2col": [
        lambda s: one(aten.im2col.default, s("n c 4 5"), [2, 2], [1, 1], [0, 0], [1, 1]),
    ],
    "col2im": [
        lambda s: one(aten.col2im.default, s("n c4 12"), [4, 5], [2, 2], [1, 1], [0, 0], [1, 1]),
    ],
    "pixel_shuffle": [
        lambda s: one(aten.pixel_shuffle.default, s("n c4 3 2"), 2),
        lambda s: one(aten.pixel_shuffle.default, s("c9 a b"), 3),
    ],
    "pixel_unshuffle": [lambda s: one(aten.pixel_unshuffle.default, s("n c 4 6"), 2)],
    "channel_shuffle": [lambda s: one(aten.channel_shuffle.default, s("n gc h"), s["g"])],
    "native_channel_shuffle": [
        lambda s: one(aten.native_channel_shuffle.default, s("n gc h w"), s["g"])
    ],
}
