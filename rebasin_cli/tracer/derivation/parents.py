"""Which groups have a permutation of their own for every index of another group.

The dims inside attention heads do, one for each head; the hidden units of experts do, one for
each expert. A child may depend on a parent if the parent stands beside it wherever it occurs,
in parameters and in everything computed from them, and no operator mixes along the parent for a
fixed index of the child.

Let units of child c be moved by q[p], another order for each unit p of the parent. An element of a
tensor with c on one of its axes can only be moved if p is known there: (1) some axis, or factor of
one, has to be p. And an operator that computes out[.., c, ..] from all p of in[.., p, .., c, ..]
would get unit q[1][c] of one parent and unit q[2][c] of the next: (2) none may sum, normalise or
rank along p while c is kept. Both have to hold for values that are computed on the way, since
these are moved by the same orders. Presence alone is not enough: by it the heads of a
block-diagonal w[h, d, d] are children of the dims (recurrent gemma), and the groups of a GroupNorm
are children of the channels in them.

All of it is decided after the last pass, on resolved terms. What is missed only makes the
symmetry smaller; what is wrong would be found by the proof.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms
from rebasin_cli.tracer.axes.axis_terms import Atom, AtomBlock, AxisTerm, Dependent, atoms, paths


@dataclass(frozen=True)
class Slot:
    """The axes of an index tensor, positions on which stand for units of some atoms.

    confused: atoms that two different indices looked up beside those units; for them a position
    may stand for two.
    After w[index] the axis of experts is gone, but position k of the index names one, so that
    hidden units of w may still be ordered differently in each. Where rows of one table that two
    indices chose are added, position k names two units, and no order could be both of theirs.
    """

    axes: frozenset[Atom]
    named: frozenset[Atom]
    confused: frozenset[Atom]


def find_parents(analysis: Analysis, parameters: Sequence[AxisTerms]) -> dict[Atom, Atom]:
    """Return the parent of each atom that has one.

    parameters: the axes of the parameters, in order; the first occurrence ranks the atoms, so
    that of two that could each be the other's parent the outer one is it. A frozen atom may be
    a parent: its units stay, and the child still moves separately for each of them. Then it may
    have a frozen parent itself, and the child moves separately for each unit of both.
    """
    # Condition (1), then (2), then of two that qualify for each other the outer one, and never a
    # moving parent for what stays: a fixed order cannot be another one for each unit.
    candidates = _candidates(analysis)

    def free(atom: Atom) -> bool:
        return analysis.terms.reason(atom) is None

    for child, parent in _forbidden(analysis):
        candidates.get(child, set()).discard(parent)
    rank = _ranks(analysis, parameters)
    kept = {
        child: {
            p
            for p in found
            if p in rank and _above(child, p, candidates, rank) and (free(child) or not free(p))
        }
        for child, found in candidates.items()
        if child in rank
    }
    return _nearest(analysis, kept, rank)


def _ranks(analysis: Analysis, parameters: Sequence[AxisTerms]) -> dict[Atom, int]:
    rank: dict[Atom, int] = {}
    for axes in parameters:
        for term in axes:
            for atom in atoms(analysis.terms.resolve(term)):
                rank.setdefault(atom, len(rank))
    return rank


def _above(
    child: Atom, parent: Atom, candidates: Mapping[Atom, set[Atom]], rank: Mapping[Atom, int]
) -> bool:
    """Return whether a parent comes first where either could be the other's, as in a shuffle."""
    mutual = child in candidates.get(parent, ())
    return not mutual or rank[parent] < rank[child]


def _candidates(analysis: Analysis) -> dict[Atom, set[Atom]]:
    """Return for each atom the other atoms that occur in every block that it occurs in.

    In what was computed a chosen unit may stand for them; a parameter has to have them itself.
    """
    found: dict[Atom, set[Atom]] = {}
    slots = _slots(analysis)
    seen: set[tuple[bool, AxisTerms]] = set()
    rows = ((value, row) for value, axes in analysis.axes.items() for row in _by_case(axes))
    for value, row in rows:
        computed, axes = not value.source, tuple(analysis.terms.resolve(term) for term in row)
        if (computed, axes) in seen:
            continue
        seen.add((computed, axes))
        dims = [tuple(paths(term)) for term in axes]
        for child, beside in _neighbours(dims, slots if computed else []):
            found[child] = found[child] & beside if child in found else beside
    return found


def _by_case(axes: AxisTerms) -> Iterator[AxisTerms]:
    """Yield the axes of each part of a value, where some axes depend on the place along another.

    Queries, keys and values may stand in one tensor and have different heads.
    """
    first = next((term for term in axes if isinstance(term, Dependent)), None)
    if first is None or not any(term is first.index for term in axes):
        yield axes
        return
    for case, segment in enumerate(first.segments):
        chosen = (_in_case(term, first.index, case, segment) for term in axes)
        yield from _by_case(tuple(chosen))


def _in_case(term: AxisTerm, index: Atom, case: int, segment: AxisTerm) -> AxisTerm:
    if term is index:
        return segment
    return term.cases[case] if isinstance(term, Dependent) and term.index is index else term


def _neighbours(
    dims: Sequence[Sequence[AtomBlock]], slots: Sequence[Slot]
) -> Iterator[tuple[Atom, set[Atom]]]:
    """Yield each atom of each block with the atoms that could govern it there.

    On its own axis those are the ones before it, elsewhere those that every block has. One after
    it, or on another axis, has to be the only one of its kind.

    Blocks, because a sum has other atoms in each segment: on the axis heads * qk + rope, only
    qk is beside heads. On another axis a parent counts if it is in all of that axis's blocks,
    since each of them meets this one. The only one, because of two (w[h, d, h]) neither is known
    to be the one that gives the order.
    """
    always = [frozenset[Atom]().union(*blocks[:1]).intersection(*blocks) for blocks in dims]
    ever = [frozenset[Atom]().union(*blocks) for blocks in dims]
    for here, blocks in enumerate(dims):
        others = [k for k in range(len(dims)) if k != here]
        counts = Counter[Atom]()
        for k in others:
            counts.update(_most(dims[k]))
        outside = frozenset[Atom]().union(*(always[k] for k in others))
        for block in blocks:
            for place, atom in enumerate(block):
                chosen = _chosen(outside.union(block), atom, slots)
                before = set(block[:place])
                alone = {
                    other
                    for other in outside.union(block[place + 1 :]) - before
                    if counts[other] + block.count(other) == 1
                }
                unnamed = chosen - ever[here] - counts.keys()
                yield atom, (before | alone | unnamed) - {atom}


def _most(blocks: Sequence[AtomBlock]) -> Counter[Atom]:
    """Return how often each atom stands in a block of an axis, where it does most often."""
    most = Counter[Atom]()
    for block in blocks:
        most |= Counter(block)
    return most


def _chosen(present: frozenset[Atom], child: Atom, slots: Sequence[Slot]) -> frozenset[Atom]:
    """Return the atoms a unit of which is given by the position on the axes that are present."""
    clear = (slot for slot in slots if slot.axes <= present and child not in slot.confused)
    return frozenset[Atom]().union(*(slot.named for slot in clear))


def _slots(analysis: Analysis) -> list[Slot]:
    """Return what each index that looked into its domain says about the atoms of its axes."""

    def of(*terms: AxisTerm) -> frozenset[Atom]:
        return frozenset(a for term in terms for a in atoms(analysis.terms.resolve(term)))

    indices: defaultdict[tuple[frozenset[Atom], Atom], set[object]] = defaultdict(set)
    for look_up in analysis.look_ups:
        for atom in of(*look_up.beside):
            indices[of(look_up.domain), atom].add(look_up.index)
    twice = {key for key, found in indices.items() if len(found) > 1}
    slots = {}
    for look_up in analysis.look_ups:
        axes, named = of(*look_up.axes), of(look_up.domain)
        confused = frozenset(atom for domain, atom in twice if domain == named)
        slots[axes, named] = Slot(axes, named, confused)
    return list(slots.values())


def _forbidden(analysis: Analysis) -> set[tuple[Atom, Atom]]:
    """Return (child, parent) pairs where an operator mixes along the parent beside the child.

    Mixing along an axis whose positions name units of an atom mixes along that atom. A parent
    that is kept in the child's own block, too, still gives the order there.
    """
    slots = _slots(analysis)
    found: set[tuple[Atom, Atom]] = set()
    seen: set[tuple[AxisTerms, AxisTerms]] = set()
    for pair in analysis.mixed:
        kept, mixed = (tuple(analysis.terms.resolve(term) for term in axes) for axes in pair)
        if (kept, mixed) in seen:
            continue
        seen.add((kept, mixed))
        along = frozenset(atom for term in mixed for atom in atoms(term))
        present = {atom for term in kept for atom in atoms(term)}
        along = along.union(*(slot.named - present for slot in slots if slot.axes & along))
        for block in (block for term in kept for block in paths(term)):
            found.update((child, parent) for child in block for parent in along.difference(block))
    return found


def _nearest(
    analysis: Analysis, candidates: Mapping[Atom, set[Atom]], rank: Mapping[Atom, int]
) -> dict[Atom, Atom]:
    """Return for each child the innermost of its candidates.

    Parents that move come before frozen ones; with equal claims, the outer one. What a parent is
    inside of gives the child an order too, so that it has to be known beside the child.
    """

    # The innermost parent is the one with the most parents of its own; those then are the
    # child's grandparents, and it has an order for each unit of all of them.
    def claim(parent: Atom) -> tuple[bool, int, int]:
        held = analysis.terms.reason(parent) is not None
        return held, -len(candidates.get(parent, ())), rank[parent]

    left = {child: set(found) for child, found in candidates.items()}
    while True:
        chosen = {child: min(found, key=claim) for child, found in left.items() if found}
        unclear = [child for child in chosen if not _line(child, chosen) <= candidates[child]]
        if not unclear:
            return chosen
        for child in unclear:
            left[child].remove(chosen[child])


def _line(child: Atom, chosen: Mapping[Atom, Atom]) -> set[Atom]:
    """Return the parent of an atom, the parent of that, and so on."""
    line = set[Atom]()
    while child in chosen and chosen[child] not in line:
        child = chosen[child]
        line.add(child)
    return line
