"""Is it a symmetry? Groups that only write or only read, and children without their parent.

For y = W2 f(W1 x + b) and a permutation P of the hidden units, W1 <- P W1, b <- P b and W2 <- W2 P'
leave y as it is: W1 writes the units, W2 reads them. Without W2 the same is another output, in
another order; that a tensor was forgotten is what such a group mostly means. A wrong spec does not
fail by itself: it writes a file that looks right and computes something else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.spec.binding.axis_sides import (
    MATRIX,
    MAY_READ,
    MAY_WRITE,
    READ,
    WRITE,
    AxisSides,
    Side,
    sides_by_position,
)
from rebasin_cli.spec.binding.cut_blocks import Owner, Piece
from rebasin_cli.spec.binding.entry_match import Placement
from rebasin_cli.spec.language.model import Axes, AxisExpr, Named, TextPlace, leaves
from rebasin_cli.spec.language.problems import Problems
from rebasin_cli.wording import list_names

_MATRICES = 2  # one that writes the units of a child and one that reads them
_SHOWN = 4  # places in a message

_ONE_SIDED = {
    WRITE: "only writes: nothing reads its units",
    READ: "only reads: nothing writes its units",
}
_TRANSPOSED_HINT = (
    "name the tensor that {missing} it, or list tensors stored as (in, out), such as embeddings, "
    "ConvTranspose or GPT-2's Conv1D, under `transposed:`"
)


@dataclass(frozen=True)
class Occurrence:
    """A group on an axis of a tensor. sides: what the tensor may do with the group's units."""

    label: str
    at: TextPlace | None
    sides: AxisSides
    matrix: bool


Occurrences = Mapping[str, Sequence[Occurrence]]


def group_occurrences(
    placements: Sequence[Placement], owner: Owner, transposed: frozenset[str]
) -> Occurrences:
    """Return where each group occurs, in checkpoint order."""
    found: defaultdict[str, list[Occurrence]] = defaultdict(list)
    for placement in placements:
        flip = not transposed.isdisjoint(placement.members)
        for part in placement.parts:
            for group, occurrence in _of_part(placement, part, owner, flip):
                found[group].append(occurrence)
    return found


def _of_part(
    placement: Placement, part: Axes, owner: Owner, flip: bool
) -> Iterator[tuple[str, Occurrence]]:
    owned = [any(_groups(tree, owner)) for tree in part]
    sides = sides_by_position(placement.shape, owned, stacked=placement.stacked, transposed=flip)
    matrix = len(placement.shape) - placement.stacked >= MATRIX
    for axis, tree in enumerate(part):
        for group, at in _groups(tree, owner):
            label = f"{placement.members[0]}[{axis}]"
            yield group, Occurrence(label, at, sides[axis], matrix)


def _groups(tree: AxisExpr, owner: Owner) -> Iterator[tuple[str, TextPlace | None]]:
    for leaf in leaves(tree):
        group = owner(leaf.name) if isinstance(leaf, Named) else None
        if group is not None and isinstance(leaf, Named):
            yield group, leaf.at


def check_sides(
    found: Occurrences, per: Mapping[str, str], excused: Container[str], problems: Problems
) -> None:
    """Refuse groups that no tensor writes or none reads. per: child group -> parent group.

    excused: groups that may stand anywhere, because nothing moves them or the spec says so.
    """
    for group, where in found.items():
        if group in excused or problems.doubtful(group):
            continue
        # Which side a child's axis is on says little: dims of queries and keys are written by two
        # projections and read by none. Two matrices are asked for instead.
        if group in per:
            _check_child(group, where, per[group], problems)
            continue
        sides = {side for occurrence in where for side in occurrence.sides}
        missing = _missing_side(sides)
        if missing is None:
            continue
        what, verb = missing
        problems.add(
            f"group {group!r} {what}",
            where[0].at,
            detail=_occurs(where),
            hint=_TRANSPOSED_HINT.format(missing=verb),
            kind=f"sides {what}",
        )


def one_sided(found: Occurrences, per: Container[str]) -> Iterator[str]:
    """Yield the groups that `check_sides` would refuse."""
    for group, where in found.items():
        sides = {side for occurrence in where for side in occurrence.sides}
        lonely = sum(occurrence.matrix for occurrence in where) < _MATRICES
        if lonely if group in per else _missing_side(sides) is not None:
            yield group


def _missing_side(sides: set[Side]) -> tuple[str, str] | None:
    if not sides & {WRITE, READ}:
        return "stands on no matrix: nothing writes or reads its units", "writes and reads"
    if READ not in sides and MAY_READ not in sides:
        return _ONE_SIDED[WRITE], "reads"
    if WRITE not in sides and MAY_WRITE not in sides:
        return _ONE_SIDED[READ], "writes"
    return None


def _check_child(group: str, where: Sequence[Occurrence], parent: str, problems: Problems) -> None:
    if sum(occurrence.matrix for occurrence in where) < _MATRICES:
        problems.add(
            f"group {group!r} (per {parent}) occurs in fewer than two matrices",
            where[0].at,
            detail=_occurs(where),
            hint="name the tensor that reads its units, or the one that writes them",
            kind="child",
        )


def _occurs(where: Sequence[Occurrence]) -> str:
    labels = list(dict.fromkeys(occurrence.label for occurrence in where))
    return f"it occurs in {list_names(labels, _SHOWN)}"


def check_parents(
    placement: Placement,
    cut: Sequence[Piece],
    ancestors: Mapping[str, Sequence[str]],
    problems: Problems,
) -> None:
    """Refuse blocks in which a child's parents are missing or ambiguous.

    An element's place along a child's dimension moves with the child's order for the unit of the
    parent that the element belongs to: some dimension of the block has to say which that is.
    """
    for piece in cut:
        owners = [(dim.axis, dim.dim.group) for dim in piece.dims]
        for position, (axis, group) in enumerate(owners):
            line = ancestors.get(group or "", ())
            for parent in line:
                what = _unclear(owners, position, parent, direct=parent == line[-1])
                if what:
                    label = f"{placement.members[0]}[{axis}]"
                    problems.add(
                        f"group {group!r} has one permutation per {parent!r}, {what}",
                        piece.dims[position].at,
                        detail=f"in {label}, a block of {_dims(piece)}",
                        hint=f"write the parent beside it: {parent} * {group}",
                        kind=f"per {what}",
                    )


def _unclear(
    owners: Sequence[tuple[int, str | None]], position: int, parent: str, *, direct: bool
) -> str:
    """Return what is wrong; a missing grandparent is the parent's problem.

    A parent that stands before the child on its own axis is the one that is meant, however many
    others there are; one on another axis, or after it, has to be the only one.
    """
    axis = owners[position][0]
    occurs = [where for where, (_, owner) in enumerate(owners) if owner == parent]
    if not occurs:
        return "which does not occur beside it" if direct else ""
    beside = any(owners[where][0] == axis for where in occurs if where < position)
    return "" if beside or len(occurs) == 1 else "which occurs more than once beside it"


def _dims(piece: Piece) -> str:
    return " * ".join(dim.dim.group or str(dim.dim.size) for dim in piece.dims)
