"""What the tracer knows of operators, a row each, besides the rules of how their axes move.

A fact is asked for with `facts(call.name).sorts`; no other module lists operators but those of
`trace/rules`, where a rule is a function and its line in the table of the file. An operator that
no row names has none of the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operator:
    """The facts of an operator; its name is as in `Call`, without the underscore of in-place forms.

    Of what a run depends on:
    steers: its number decides which operators run. extreme: of integers, programs read it to check
    that indices fit. only_shaped: of its first argument only the shape counts, not the numbers.

    Of what happens to units:
    slices: leaves out some units, which is no use of them. sums: one of the sums that norms are
    made of. activation: it bends numbers, each by itself. gate: its results weigh other numbers.

    Of where results stand:
    sorts: numbers decide where. scatters: it writes into its first argument, and its results stand
    where they stood in that. copies: it returns its first argument, or some rows of it, perhaps
    scaled.

    Of tensors of indices:
    keeps_indices: its results name the units that its first argument names. looks_up: an argument
    holds indices into another. takes: it returns what it finds there, indices or not.

    Of scales, where f(c x) is to be c f(x) for c > 0 (bounds and fillings in, that are 0):
    moves: it returns numbers of its first argument, wherever they then stand. homogeneous: it is so
    in any one argument, the others being constant. joins: in all its arguments together.
    linear: it is linear in its first argument, the same for each unit of an axis that it neither
    sums nor slides along.
    layer: it multiplies what is read by a weight: the positions of the two, and of a bias.
    """

    name: str
    steers: bool = False
    extreme: bool = False
    only_shaped: bool = False
    slices: bool = False
    sums: bool = False
    activation: bool = False
    gate: bool = False
    sorts: bool = False
    scatters: bool = False
    copies: bool = False
    keeps_indices: bool = False
    looks_up: bool = False
    takes: bool = False
    moves: bool = False
    homogeneous: bool = False
    joins: bool = False
    linear: bool = False
    layer: tuple[int, int, int | None] | None = None


def _each(names: str, **alike: Any) -> tuple[Operator, ...]:
    """Return a row of the same facts for each name."""
    return tuple(Operator(name, **alike) for name in names.split())


OPERATORS: tuple[Operator, ...] = (
    *_each("_local_scalar_dense is_nonzero equal", steers=True),
    *_each("min max amin amax", extreme=True, homogeneous=True),
    Operator("aminmax", extreme=True),
    *_each(
        "empty_like zeros_like ones_like full_like rand_like randn_like "
        "new_empty new_zeros new_ones new_full new_empty_strided",
        only_shaped=True,
    ),
    *_each("relu leaky_relu", activation=True, homogeneous=True),
    *_each(
        "relu6 hardtanh _prelu_kernel rrelu elu celu "
        "selu gelu silu mish softplus tanh hardswish threshold",
        activation=True,
    ),
    *_each("sigmoid hardsigmoid", activation=True, gate=True),
    *_each("mean sum", sums=True, homogeneous=True),
    *_each("var std var_mean std_mean norm linalg_vector_norm", sums=True),
    *_each("sort topk msort kthvalue", sorts=True),
    *_each(
        "select slice split split_with_sizes unbind",
        slices=True,
        keeps_indices=True,
        moves=True,
    ),
    Operator("chunk", slices=True, keeps_indices=True),
    Operator("narrow", slices=True, moves=True),
    *_each(
        "detach alias lift_fresh view expand unsqueeze squeeze permute transpose t repeat "
        "flip roll reshape",
        keeps_indices=True,
        moves=True,
    ),
    Operator("copy", keeps_indices=True),
    *_each("cat stack", keeps_indices=True, joins=True),
    *_each("clone _to_copy _unsafe_view", copies=True, keeps_indices=True, moves=True),
    Operator("mul", copies=True, homogeneous=True),
    *_each(
        "embedding _embedding_bag _embedding_bag_forward_only", looks_up=True, layer=(1, 0, None)
    ),
    *_each("index index_select", copies=True, looks_up=True, takes=True, moves=True),
    Operator("gather", looks_up=True, takes=True),
    *_each(
        "scatter scatter_add scatter_reduce index_add index_copy index_put _index_put_impl",
        scatters=True,
        looks_up=True,
    ),
    Operator("masked_scatter", scatters=True),
    *_each("as_strided diagonal contiguous pixel_shuffle pixel_unshuffle", moves=True),
    *_each(
        "abs div clamp clamp_min max_pool1d_with_indices max_pool2d_with_indices "
        "max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d",
        homogeneous=True,
    ),
    *_each(
        "neg cumsum constant_pad_nd im2col col2im unfold avg_pool1d avg_pool2d avg_pool3d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d "
        "upsample_nearest3d upsample_bilinear2d reflection_pad1d reflection_pad2d "
        "replication_pad1d replication_pad2d",
        homogeneous=True,
        linear=True,
    ),
    *_each("upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa", linear=True),
    *_each("add sub rsub maximum minimum", joins=True),
    Operator("convolution", layer=(0, 1, 2)),
    *_each("mm bmm mv", layer=(0, 1, None)),
    *_each("addmm addmv baddbmm", layer=(1, 2, 0)),
)

_BY_NAME = {operator.name: operator for operator in OPERATORS}
_UNKNOWN = Operator("")


def facts(name: str) -> Operator:
    """Return the row of an operator, or of the one whose in-place form it is."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.removesuffix("_"), _UNKNOWN)
