"""The spec as a value: which tensors, which axes, which groups; no sizes and no tensor data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TextPlace:
    """Where something stands in a spec's text: 1-based line and column, width in characters."""

    line: int
    column: int
    width: int = 1


@dataclass(frozen=True)
class Named:
    """A factor with a name: a group, or a size if `sizes:`, `--set` or `config.` defines it.

    The name may hold templates such as `{i}` or `{i.prev}`.
    """

    name: str
    at: TextPlace | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Fixed:
    """A factor that nothing permutes; size None is `~`, any size."""

    size: int | None = None
    at: TextPlace | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Product:
    """Nested factors in row-major order, the last one fastest. Make it with `product`."""

    factors: tuple[AxisExpr, ...]


@dataclass(frozen=True)
class Sum:
    """Segments that are concatenated along the axis. Make it with `concatenation`."""

    segments: tuple[AxisExpr, ...]


@dataclass(frozen=True)
class Interleaving:
    """Parts that are interleaved: the first unit of each, then the second of each, and so on.

    Of n units, part j of k has those at j, j + k, j + 2 k, ...: the last parts may have one less.
    Make it with `interleaving`.
    """

    parts: tuple[AxisExpr, ...]


AxisExpr = Named | Fixed | Product | Sum | Interleaving
Axes = tuple[AxisExpr, ...]


def product(factors: Sequence[AxisExpr]) -> AxisExpr:
    """Return the product of one or more factors; products inside it are flattened."""
    flat = [g for f in factors for g in (f.factors if isinstance(f, Product) else (f,))]
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def concatenation(segments: Sequence[AxisExpr]) -> AxisExpr:
    """Return the concatenation of one or more segments; sums inside it are flattened."""
    flat = [t for s in segments for t in (s.segments if isinstance(s, Sum) else (s,))]
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def interleaving(parts: Sequence[AxisExpr]) -> AxisExpr:
    """Return one or more parts interleaved; those of a part stay there.

    Of two units each, `(a | b) | c` is a c b c a c b c, and `a | b | c` a b c a b c.
    """
    return parts[0] if len(parts) == 1 else Interleaving(tuple(parts))


def parts_of(expression: AxisExpr) -> tuple[AxisExpr, ...]:
    """Return the factors, segments or parts of an axis expression; of a leaf, none."""
    if isinstance(expression, Product):
        return expression.factors
    if isinstance(expression, Sum):
        return expression.segments
    return expression.parts if isinstance(expression, Interleaving) else ()


def with_parts(expression: AxisExpr, parts: Sequence[AxisExpr]) -> AxisExpr:
    """Return the product, concatenation or interleaving that an expression is, of other parts."""
    if isinstance(expression, Product):
        return product(parts)
    return concatenation(parts) if isinstance(expression, Sum) else interleaving(parts)


def leaves(expression: AxisExpr) -> Iterator[Named | Fixed]:
    """Yield the factors of an axis expression from left to right."""
    if isinstance(expression, Named | Fixed):
        yield expression
        return
    for part in parts_of(expression):
        yield from leaves(part)


def rewritten(expression: AxisExpr, change: Callable[[Named | Fixed], AxisExpr]) -> AxisExpr:
    """Return an axis expression with each of its factors replaced; its shape stays as it is."""
    if isinstance(expression, Named | Fixed):
        return change(expression)
    return type(expression)(tuple(rewritten(part, change) for part in parts_of(expression)))


@dataclass(frozen=True)
class Split:
    """A tensor cut along one axis into parts that have axis lists of their own."""

    axis: int
    parts: tuple[Axes, ...]


Entry = Axes | Split


def axes_of(entry: Entry) -> tuple[Axes, ...]:
    """Return the axis lists of an entry: one, or one for each part of a split."""
    return entry.parts if isinstance(entry, Split) else (entry,)


def with_axes(entry: Entry, change: Callable[[Axes], Axes]) -> Entry:
    """Return an entry with each of its axis lists replaced."""
    if isinstance(entry, Split):
        return Split(entry.axis, tuple(map(change, entry.parts)))
    return change(entry)


def entry_names(entry: Entry) -> Iterator[str]:
    """Yield the names in an entry from left to right."""
    for axes in axes_of(entry):
        yield from axis_names(axes)


def axis_names(axes: Iterable[AxisExpr]) -> Iterator[str]:
    """Yield the names in axis expressions from left to right."""
    for axis in axes:
        yield from (leaf.name for leaf in leaves(axis) if isinstance(leaf, Named))


PERMUTATION = "permutation"

# What may be done to the units of a group, from the smallest class to the largest. A rotary group
# has a complex number for each of its pairs: (i, i + n/2), or (2i, 2i + 1) if interleaved. What
# keeps the mean maps the vector of ones to itself.
ROTARY, INTERLEAVED = "rotary", "rotary-interleaved"
ORTHOGONAL, KEEPING_MEAN = "orthogonal", "orthogonal-keeping-mean"
SIGNED = "signed"
CLASSES = (PERMUTATION, SIGNED, ROTARY, INTERLEAVED, KEEPING_MEAN, ORTHOGONAL)
EVERY_TYPE = "*"  # of `one-plus`


@dataclass(frozen=True)
class Declaration:
    """What `groups:` says of a group: its size, and the group it has one permutation per index of.

    size: a number, a name from `sizes:`, or a `config.` path. fixed: nothing may reorder it, but
    it may be the parent of groups that are reordered inside each of its units. one_sided: its
    units are only written, or only read: two tensors write them and a product sums over them.
    maps: a key of CLASSES, what may be done to its units besides.
    """

    size: int | str | None = None
    per: str | None = None
    fixed: bool = False
    one_sided: bool = False
    maps: str = PERMUTATION


@dataclass(frozen=True)
class Norm:
    """What `norms:` says of a gain: how the norm that it belongs to can be folded away.

    kind: `rms`, or `layer`, which takes off the mean too, or `scale`, a gain on what a branch adds
    (LayerScale). readers: patterns of the weights that read what it scales; all of them, and
    nothing else does. tied: the tensor that is the reader where the reader is not stored.
    one_plus: values of model_type in config.json for which the norm multiplies by 1 + gain; `*`:
    it always does. bias: its bias, where that is not called as the gain with `bias` for `weight`.
    writers: of a scale, patterns of what writes what it scales.
    """

    kind: str
    readers: tuple[str, ...] = ()
    tied: str | None = None
    one_plus: tuple[str, ...] = ()
    bias: str | None = None
    writers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """Which axes of which tensors belong to which groups. Equality is by meaning.

    tensors: name pattern (ending in `?` if it is optional) -> entry. sizes: name -> number or
    `config.` path. groups: name, with templates -> declaration. norms: pattern of a gain -> how
    its norm folds. transposed: patterns of tensors stored as (in, out). model_types: values of
    model_type in config.json for which maps and norms hold; none: they always do.
    source, text, places: where it was read from, for messages only; the keys of `places` are
    paths such as ("tensors", PATTERN) or ("groups", NAME, "per").
    """

    tensors: Mapping[str, Entry]
    name: str = ""
    description: str = ""
    buffers: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    sizes: Mapping[str, int | str] = field(default_factory=dict)
    groups: Mapping[str, Declaration] = field(default_factory=dict)
    norms: Mapping[str, Norm] = field(default_factory=dict)
    model_types: tuple[str, ...] = ()
    source: str = field(default="<spec>", compare=False)
    text: str = field(default="", compare=False, repr=False)
    places: Mapping[tuple[str, ...], TextPlace] = field(
        default_factory=dict, compare=False, repr=False
    )

    def maps_hold(self, model_type: object) -> bool:
        """Return whether maps and norms are those of a model_type; None: of no config.json."""
        return not self.model_types or model_type is None or model_type in self.model_types
