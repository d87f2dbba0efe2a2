"""What the tracer knows of operators, a row each, besides the rules of how their axes move.

A fact is asked for with `facts(call.name).sorts`; no other module lists operators but those of
`trace/rules`, where a rule is a function and its line in the table of the file. An operator that
no row names has none of the facts.
"""

from __future__ import annotations

from dataclasses import dataclass


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


def _each(names: str, **alike: bool) -> tuple[Operator, ...]:
    """Return a row of the same facts for each name."""
    return tuple(Operator(name, **alike) for name in names.split())


OPERATORS: tuple[Operator, ...] = (
    *_each("_local_scalar_dense is_nonzero equal", steers=True),
    *_each("min max amin amax aminmax", extreme=True),
    *_each(
        "empty_like zeros_like ones_like full_like rand_like randn_like "
        "new_empty new_zeros new_ones new_full new_empty_strided",
        only_shaped=True,
    ),
    *_each(
        "relu relu6 hardtanh leaky_relu _prelu_kernel rrelu elu celu "
        "selu gelu silu mish softplus tanh hardswish threshold",
        activation=True,
    ),
    *_each("sigmoid hardsigmoid", activation=True, gate=True),
    *_each("mean sum var std var_mean std_mean norm linalg_vector_norm", sums=True),
    *_each("sort topk msort kthvalue", sorts=True),
    *_each(
        "select slice split split_with_sizes unbind chunk",
        slices=True,
        keeps_indices=True,
    ),
    Operator("narrow", slices=True),
    *_each(
        "detach alias lift_fresh view expand unsqueeze squeeze permute transpose t repeat "
        "flip roll copy reshape cat stack",
        keeps_indices=True,
    ),
    *_each("clone _to_copy _unsafe_view", copies=True, keeps_indices=True),
    Operator("mul", copies=True),
    Operator("embedding", looks_up=True),
    *_each("index index_select", copies=True, looks_up=True, takes=True),
    Operator("gather", looks_up=True, takes=True),
    *_each(
        "scatter scatter_add scatter_reduce index_add index_copy index_put _index_put_impl",
        scatters=True,
        looks_up=True,
    ),
    Operator("masked_scatter", scatters=True),
)

_BY_NAME = {operator.name: operator for operator in OPERATORS}
_UNKNOWN = Operator("")


def facts(name: str) -> Operator:
    """Return the row of an operator, or of the one whose in-place form it is."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.removesuffix("_"), _UNKNOWN)
