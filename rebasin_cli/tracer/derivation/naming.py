"""Names for groups, after what makes their units: `layer1.0.conv1`, `h.3.attn.heads`, `stream`.

Names depend on tensor names only, so that layers that repeat get names that repeat: templates of
the short form then speak for all of them. What decides, in this order: factors of an axis (heads,
dims in them), experts, streams (many writers), and else the first tensor that writes the units.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.tracer.axes.axis_terms import Atom, AxisTerm, ProductTerm, atoms, parts

STREAM_WRITERS = 3  # as many matrices that add to the same units make them a residual stream
_MATRIX = 2
_STACK = 3


@dataclass(frozen=True)
class AtomOccurrence:
    """An atom on an axis of a parameter.

    alone: it is the whole axis or a whole segment of it. inner: factors stand before it; outer:
    after it. read: the parameter sums over this axis.
    """

    tensor: str
    rank: int
    axis: int
    alone: bool
    inner: bool
    outer: bool
    read: bool


def atom_occurrences(
    tensors: Mapping[str, Sequence[AxisTerm]], read: Mapping[str, frozenset[Atom]]
) -> dict[Atom, list[AtomOccurrence]]:
    """Return where each atom occurs, in the order of the tensors.

    tensors: name -> resolved axes. read: name -> the atoms that the tensor sums over.
    """
    found: defaultdict[Atom, list[AtomOccurrence]] = defaultdict(list)
    for name, axes in tensors.items():
        sides = _read_axes(axes, read.get(name, frozenset()))
        for axis, term in enumerate(axes):
            for atom, inner, outer in _standing(term, inner=False, outer=False):
                alone, side = not inner and not outer, axis in sides
                found[atom].append(AtomOccurrence(name, len(axes), axis, alone, inner, outer, side))
    return found


def _read_axes(axes: Sequence[AxisTerm], read: frozenset[Atom]) -> set[int]:
    """Return the axes a tensor sums over; of two with the same atoms, the last one.

    A square weight on a stream has one atom on both axes; in torch's (out, in) it reads the last.
    """
    chosen = [axis for axis, term in enumerate(axes) if _is_only_read(term, read)]
    twice = {term for term, count in Counter(axes[axis] for axis in chosen).items() if count > 1}
    return {axis for axis in chosen if axes[axis] not in twice} | {
        max(axis for axis in chosen if axes[axis] == term) for term in twice
    }


def _is_only_read(term: AxisTerm, read: frozenset[Atom]) -> bool:
    found = set(atoms(term))
    return bool(found) and found <= read


def _standing(term: AxisTerm, *, inner: bool, outer: bool) -> Iterator[tuple[Atom, bool, bool]]:
    if isinstance(term, Atom):
        yield term, inner, outer
        return
    last = len(parts(term)) - 1
    for place, part in enumerate(parts(term)):
        if isinstance(term, ProductTerm):
            yield from _standing(part, inner=inner or place > 0, outer=outer or place < last)
        else:
            yield from _standing(part, inner=inner, outer=outer)


def name_groups(
    groups: Sequence[Atom],
    found: Mapping[Atom, Sequence[AtomOccurrence]],
    parents: Mapping[Atom, Atom],
) -> dict[Atom, str]:
    """Return a name for each atom, all different; collisions are numbered in order."""
    children = set(parents.values())
    taken: Counter[str] = Counter()
    named: dict[Atom, str] = {}
    for atom in groups:
        base = _named(found[atom], has_children=atom in children)
        taken[base] += 1
        named[atom] = base if taken[base] == 1 else f"{base}.part{taken[base]}"
    return named


def _named(found: Sequence[AtomOccurrence], *, has_children: bool) -> str:
    """Return the name of one atom, not yet told from others of that name.

    Vectors are asked only where there is no matrix: a bias or a norm is on every stream, and says
    nothing of who writes it. With children on axis 0 of three an atom is a stack of experts.
    """
    matrices = [place for place in found if place.rank >= _MATRIX] or list(found)
    factors = [place for place in matrices if not place.alone]
    if factors and (has_children or len(factors) == len(matrices)):
        return _of_factor(factors, has_children)
    if has_children and any(place.rank >= _STACK and place.axis == 0 for place in matrices):
        return f"{_module(matrices)}experts"
    writers = [place for place in matrices if place.alone and not place.read]
    if len(writers) >= STREAM_WRITERS:
        return f"{_stage(writers)}stream"
    first = (writers or matrices)[0]
    return _base(first.tensor)


def _of_factor(matrices: Sequence[AtomOccurrence], has_children: bool) -> str:
    """Name a factor by its place in products: outer ones are heads, inner ones their dims.

    Between the two are the queries of a key-value head. Dims that a matrix sums over are those of
    values (vo); dims of queries and keys are summed over by a product of activations alone (qk).
    """
    module = _module(matrices)
    if all(place.outer and not place.inner for place in matrices):
        convolution = all(place.rank > _MATRIX for place in matrices)
        return f"{module}{'groups' if convolution else 'heads'}"
    if any(place.inner and place.outer for place in matrices):
        return f"{module}queries"
    if any(place.read for place in matrices):
        return f"{module}vo" if len(_owners(matrices)) > 1 or has_children else f"{module}units"
    return f"{module}qk"


def _owners(found: Iterable[AtomOccurrence]) -> set[str]:
    return {_base(place.tensor) for place in found}


def _stage(writers: Sequence[AtomOccurrence]) -> str:
    """Return the module of a stream: the numbered stage that most writers are in, if there is one.

    The stem writes the stream of the first stage, and may stand outside it: two thirds will do.
    """
    paths = [tuple(_base(writer.tensor).split(".")) for writer in writers]
    inside = paths
    stage: tuple[str, ...] = ()
    for depth in range(1, max(map(len, paths))):
        prefix, count = Counter(path[:depth] for path in inside).most_common(1)[0]
        if 3 * count < 2 * len(paths):
            break
        inside = [path for path in inside if path[:depth] == prefix]
        stage = prefix
    numbered = stage and re.search(r"\d$", stage[-1])
    return _safe(".".join(stage) + ".") if numbered else _module(writers)


def _module(found: Iterable[AtomOccurrence]) -> str:
    return shared_module([place.tensor for place in found])


def shared_module(tensors: Sequence[str]) -> str:
    """Return the longest module path that all tensors share, with a dot at its end."""
    paths = [_base(tensor).split(".") for tensor in tensors]
    if len({tuple(path) for path in paths}) == 1:
        return ".".join(paths[0]) + "."
    shared: list[str] = []
    for row in zip(*paths, strict=False):
        if len(set(row)) > 1:
            break
        shared.append(row[0])
    return _safe(".".join(shared) + ".") if shared else ""


def _base(tensor: str) -> str:
    """Return the module of a tensor; a bare parameter of a larger module names itself."""
    module, _, last = tensor.rpartition(".")
    layer = re.fullmatch(r"(?:weight|bias)_[ih]h_(l\d+(?:_reverse)?)", last)
    if layer:
        return _safe(f"{module}.{layer[1]}" if module else layer[1])
    plain = re.fullmatch(r"(?:weight|bias|original\d?|in_proj_weight|in_proj_bias)", last)
    return _safe(module if plain and module else tensor)


def _safe(name: str) -> str:
    """Return a name that a spec can be written with, and that does not look like a number."""
    plain = re.sub(r"[^\w.\-]", "_", name)
    return f"layer.{plain}" if plain[0].isdigit() else plain
