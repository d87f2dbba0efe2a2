"""Rules of operators on images and signals: the order of places matters, that of channels not."""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, OperatorRule
from rebasin_cli.tracer.axes.axis_terms import AxisTerm, add, divides, extent, multiply
from rebasin_cli.tracer.axes.bindings import ALTERNATING
from rebasin_cli.tracer.axes.known_atoms import Birth
from rebasin_cli.tracer.recording.record import Call
from rebasin_cli.tracer.rules.slices import narrowed
from rebasin_cli.tracer.rules.views import regroup

CHANNELS = 2  # batch and channel come first


def convolution(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """out[n, g * o] = sum over i and the kernel of x[n, g * i] * w[g * o, i, ...].

    Transposed, the weight is [g * i, o, ...].
    """
    made = _by_group(analysis, call) if _is_apart(analysis, call) else _by_groups(analysis, call)
    analysis.freeze(analysis.of(call.args[1])[2:], "convolution kernel")
    if call.arg("bias") is not None:
        analysis.terms.unify(made, analysis.of(call.arg("bias"))[0])
    return [(analysis.of(call.args[0])[0], made, *_places(analysis, call))]


def _is_apart(analysis: Analysis, call: Call) -> bool:
    """Return whether each group of channels is better looked at by itself.

    Where groups are not rows of one kind: channels that were shuffled, or are to be, as an
    earlier pass found out.
    """
    channels, groups = analysis.of(call.args[0])[1], call.arg("groups")
    if not 1 < groups < min(extent(channels), ALTERNATING + 1):
        return False
    term = analysis.terms.resolve(analysis.terms.collapse(channels))
    known = analysis.terms.cuts.get(_birth(call), ())
    return len(known) == groups - 1 or not divides(term, groups)


def _birth(call: Call) -> Birth:
    """Return the name of the axis that a convolution's groups are."""
    return f"call {call.index}", 0


def _by_group(analysis: Analysis, call: Call) -> AxisTerm:
    """Return the output channels where each group has channels of its own, behind one another."""
    axes, weight = analysis.of(call.args[0]), analysis.of(call.args[1])
    groups, transposed = call.arg("groups"), call.arg("transposed")
    made = []
    for k in range(groups):
        part, rows = (
            narrowed(analysis, whole, dim, *(extent(whole[dim]) * n // groups for n in (k, k + 1)))
            for whole, dim in ((axes, 1), (weight, 0))
        )
        into, out = (rows[0], rows[1]) if transposed else (rows[1], rows[0])
        analysis.terms.unify(part[1], into)
        analysis.read(call.args[1], into)
        analysis.mix(part, range(1, len(part)))
        analysis.mix((into, out), [0])
        made.append(analysis.terms.collapse(out))
    return add(made) if transposed else weight[0]


def _by_groups(analysis: Analysis, call: Call) -> AxisTerm:
    """Return the output channels where all groups are alike."""
    axes, weight = analysis.of(call.args[0]), analysis.of(call.args[1])
    groups = call.arg("groups")
    group, inner = analysis.terms.split(axes[1], groups)
    first_group, first = analysis.terms.split(weight[0], groups)
    analysis.terms.unify(group, first_group)
    if 1 < groups < extent(axes[1]):
        analysis.terms.born(analysis.terms.resolve(group), _birth(call))
        analysis.grouped.append((group, weight[0]))
    into, out = (first, weight[1]) if call.arg("transposed") else (weight[1], first)
    analysis.terms.unify(inner, into)
    analysis.read(call.args[1], into)
    analysis.mix((axes[0], group, inner, *axes[2:]), range(2, len(axes) + 1))
    analysis.mix((group, into, out), [1])
    if not call.arg("transposed"):
        return weight[0]
    return multiply([group, analysis.terms.collapse(out)]) if groups > 1 else out


def _places(analysis: Analysis, call: Call) -> Sequence[AxisTerm]:
    """Return the spatial axes of a convolution; one that looks at single places keeps them."""
    axes, shape = analysis.of(call.args[0]), call.result.shape
    pointlike = all(size == 1 for size in call.args[1].shape[2:])
    if pointlike and set(call.arg("stride")) == {1} and not any(call.arg("padding")):
        return axes[2:]
    analysis.freeze(axes[2:], "places of a convolution")
    return analysis.frozen(shape[2:], "places of a convolution")


def places(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Pooling, resizing, padding: the trailing axes are places, the leading ones stay."""
    axes = analysis.of(call.args[0])
    spatial = _SPATIAL[call.name.removesuffix("_")]
    start = len(axes) - spatial
    moved = [start + place for place in range(spatial) if not _pointlike(call, place, spatial)]
    analysis.freeze([axes[dim] for dim in moved], "places")
    analysis.mix(axes, moved)
    for value in call.operands[1:]:  # chosen places of an unpooling, random ones of a pooling
        other = analysis.of(value)
        analysis.freeze(other[CHANNELS:], "places")
        analysis.terms.unify_all(axes[:CHANNELS], other[:CHANNELS])
    made = [result.shape if result is not None else () for result in call.results]
    return [
        tuple(
            analysis.frozen([size], "places")[0] if dim in moved else axes[dim]
            for dim, size in enumerate(shape)
        )
        for shape in made
    ]


def _pointlike(call: Call, place: int, spatial: int) -> bool:
    """Return whether a mean over windows takes each place along an axis alone.

    Of a maximum the places are counted over all axes, and so depend on their order.
    """
    if not call.name.startswith("avg_pool"):
        return False
    width, step, padding = (
        (list(call.arg(name)) * spatial)[place] if call.arg(name) else None
        for name in ("kernel_size", "stride", "padding")
    )
    return width == 1 and step in (1, None) and not padding


def transformed(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """Fourier transforms: the order along what is transformed matters, and is another after."""
    axes, dims = analysis.of(call.args[0]), call.arg("dim")
    chosen = {dim % len(axes) for dim in dims}
    analysis.freeze([axes[dim] for dim in chosen], "frequencies")
    analysis.mix(axes, chosen)
    shape = call.result.shape
    return [
        tuple(
            analysis.frozen([shape[dim]], "frequencies")[0] if dim in chosen else term
            for dim, term in enumerate(axes)
        )
    ]


def sample(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """`grid_sample`: reads places that another tensor names."""
    axes, grid = analysis.of(call.args[0]), analysis.of(call.args[1])
    analysis.freeze(axes[2:], "places")
    analysis.mix(axes, range(CHANNELS, len(axes)))
    analysis.freeze(grid[-1:], "coordinates")
    analysis.terms.unify(axes[0], grid[0])
    return [(*axes[:2], *grid[1:-1])]


def patches(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """im2col: (n, c, h, w) -> (n, c * kernel places, windows)."""
    axes, shape = analysis.of(call.args[0]), call.result.shape
    analysis.freeze(axes[-2:], "places")
    kernel = analysis.frozen([shape[-2] // extent(axes[-3])], "places")
    count = analysis.frozen([shape[-1]], "places")
    return [(*axes[:-3], multiply([analysis.terms.collapse(axes[-3]), *kernel]), *count)]


def unpatched(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """col2im: (n, c * kernel places, windows) -> (n, c, h, w)."""
    axes, shape = analysis.of(call.args[0]), call.result.shape
    channels, kernel = analysis.terms.split(axes[-2], shape[-3])
    analysis.freeze([kernel, axes[-1]], "places")
    return [(*axes[:-2], channels, *analysis.frozen(shape[-2:], "places"))]


def pixel_shuffle(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """(..., c * r * r, h, w) -> (..., c, h * r, w * r)."""
    factor = call.arg("upscale_factor")
    *lead, channels, height, width = call.args[0].shape
    split = (*lead, channels // factor**2, factor, factor, height, width)
    axes = regroup(analysis, call, analysis.of(call.args[0]), split)
    n = len(lead)
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return [regroup(analysis, call, tuple(axes[dim] for dim in order), call.result.shape)]


def pixel_unshuffle(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """(..., c, h * r, w * r) -> (..., c * r * r, h, w)."""
    factor = call.arg("downscale_factor")
    *lead, channels, height, width = call.args[0].shape
    split = (*lead, channels, height // factor, factor, width // factor, factor)
    axes = regroup(analysis, call, analysis.of(call.args[0]), split)
    n = len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return [regroup(analysis, call, tuple(axes[dim] for dim in order), call.result.shape)]


def channel_shuffle(analysis: Analysis, call: Call) -> list[AxisTerms]:
    groups = call.arg("groups")
    batch, channels, *rest = call.args[0].shape
    split = (batch, groups, channels // groups, *rest)
    axes = regroup(analysis, call, analysis.of(call.args[0]), split)
    turned = (axes[0], axes[2], axes[1], *axes[3:])
    return [regroup(analysis, call, turned, call.args[0].shape)]


def regions(analysis: Analysis, call: Call) -> list[AxisTerms]:
    """`roi_align`, `roi_pool`: channels of places that boxes name."""
    axes, boxes = analysis.of(call.args[0]), analysis.of(call.args[1])
    analysis.freeze((axes[0], *axes[2:], *boxes), "places")
    shape = call.result.shape
    count, high, wide = analysis.frozen([shape[0], *shape[2:]], "places")
    made: list[AxisTerms] = [(count, axes[1], high, wide)]
    return made * len(call.results)


_SPATIAL: dict[str, int] = {
    f"{name}{rank}d{ending}": rank
    for rank in (1, 2, 3)
    for name, endings in {
        "avg_pool": ("",),
        "max_pool": ("", "_with_indices"),
        "fractional_max_pool": ("",),
        "_adaptive_avg_pool": ("",),
        "adaptive_avg_pool": ("",),
        "adaptive_max_pool": ("",),
        "max_unpool": ("",),
        "upsample_nearest": ("",),
        "_upsample_nearest_exact": ("",),
        "reflection_pad": ("",),
        "replication_pad": ("",),
    }.items()
    for ending in endings
} | {
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "upsample_bicubic2d": 2,
    "_upsample_bicubic2d_aa": 2,
    "upsample_trilinear3d": 3,
}

RULES: dict[str, OperatorRule] = {
    "convolution": convolution,
    **dict.fromkeys(_SPATIAL, places),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), sample),
    **dict.fromkeys(("_fft_c2c", "_fft_r2c", "_fft_c2r"), transformed),
    "im2col": patches,
    "col2im": unpatched,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), channel_shuffle),
    **dict.fromkeys(("torchvision::roi_align", "torchvision::roi_pool"), regions),
}
