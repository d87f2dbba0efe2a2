"""Sizes of groups and fixed factors from tensor shapes.

Each axis is an equation: its expression, sums and products of names, is its size. One with a single
unknown x is slope * x + constant = size and is solved at once; then others may have one unknown
left. That goes on until none is: what is unknown then has to be declared. Several equations are
never solved as a system, so every size found has one tensor to name in a message.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebasin_cli.spec.binding.cut_blocks import axis_size
from rebasin_cli.spec.binding.entry_match import Placement
from rebasin_cli.spec.binding.resolve import place_of_axis
from rebasin_cli.spec.language.expression import dump_expression
from rebasin_cli.spec.language.model import (
    AxisExpr,
    Fixed,
    Interleaving,
    Named,
    Product,
    axis_names,
    concatenation,
    parts_of,
)
from rebasin_cli.spec.language.problems import Problems

_LARGEST = 10**20  # a wrong product can have thousands of digits


@dataclass(frozen=True)
class Equation:
    """An axis expression whose size is known; label: the tensor and axis."""

    tree: AxisExpr
    size: int
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the expression, each once."""
        return tuple(dict.fromkeys(axis_names([self.tree])))

    @property
    def shown(self) -> str:
        return _shown(self.tree)


def equations(placements: Iterable[Placement]) -> Iterator[Equation]:
    """Yield what the shapes say: the parts of a split add up, other axes are what they are.

    Along the axis that is cut only the sum of all parts is known; along others every part spans
    the whole axis, so each is an equation of its own.
    """
    for placement in placements:
        for axis, size in enumerate(placement.shape):
            trees = [part[axis] for part in placement.parts]
            if axis == placement.split:
                trees = [concatenation(trees)]
            for tree in trees:
                yield Equation(tree, size, f"{placement.members[0]}[{axis}]")


def solve_sizes(
    placements: Iterable[Placement],
    declared: Mapping[str, int],
    broken: Iterable[str],
    fixed: Container[str],
    problems: Problems,
) -> dict[str, int]:
    """Return the size of every name that occurs in the placements, 1 where there is a problem.

    declared: sizes known before. broken: names that have none, which was reported already.
    fixed: the names that are sizes and not groups.
    """
    solver = _Solver(declared, broken, fixed, problems)
    pending = list(equations(placements))
    while pending:
        waiting = [equation for equation in pending if not solver.settle(equation)]
        if len(waiting) == len(pending):
            break
        pending = waiting
    solver.report_unknown(pending)
    names = (name for equation in pending for name in equation.names)
    return {**dict.fromkeys([*names, *solver.broken], 1), **solver.known}


def affine(tree: AxisExpr, known: Mapping[str, int]) -> tuple[int, int, str | None] | None:
    """Return slope, constant and the one unknown of an expression, or None if it has more.

    (s x + c) (0 x + d) = s d x + c d, and sums add up, as interleaved parts do. An unknown times
    itself (the axis u * u of a Gram matrix) is quadratic and counts as more; added, it is one.
    """
    if isinstance(tree, Fixed):
        return 0, tree.size or 0, None
    if isinstance(tree, Named):
        return (0, known[tree.name], None) if tree.name in known else (1, 0, tree.name)
    multiply = isinstance(tree, Product)
    slope, constant, unknown = 0, int(multiply), None
    for part in parts_of(tree):
        line = affine(part, known)
        if line is None or (unknown and line[2] and (multiply or unknown != line[2])):
            return None
        if multiply:
            slope = slope * line[1] + constant * line[0]
            constant *= line[1]
        else:
            slope, constant = slope + line[0], constant + line[1]
        unknown = unknown or line[2]
    return slope, constant, unknown


def check_turns(
    placements: Iterable[Placement], sizes: Mapping[str, int], problems: Problems
) -> None:
    """Refuse interleaved parts of sizes that cannot alternate to the end."""
    for placement in placements:
        for axis, tree in ((k, tree) for part in placement.parts for k, tree in enumerate(part)):
            for mixed in _interleaved_in(tree):
                made = [axis_size(part, sizes) for part in mixed.parts]
                fair = [len(range(k, sum(made), len(made))) for k in range(len(made))]
                if made != fair:
                    _uneven(f"{placement.members[0]}[{axis}]", mixed, made, fair, problems)


def _interleaved_in(tree: AxisExpr) -> Iterator[Interleaving]:
    if isinstance(tree, Interleaving):
        yield tree
    for part in parts_of(tree):
        yield from _interleaved_in(part)


def _uneven(
    label: str, tree: Interleaving, made: Sequence[int], fair: Sequence[int], problems: Problems
) -> None:
    problems.add(
        f"the parts of {_shown(tree)!r} cannot alternate",
        place_of_axis(tree),
        detail=f"in {label}, {sum(made)} units in turn are {fair} in the parts, not {made}",
        hint="parts behind one another are written with '+'",
        kind="turns",
    )


def _shown(tree: AxisExpr) -> str:
    """Return an expression as it was written, with `~` for factors of any size."""
    return re.sub(r"~[0-9]+", "~", dump_expression(tree))


class _Solver:
    """The sizes known so far and what made them so, such as `x.weight[0] is`."""

    def __init__(
        self,
        declared: Mapping[str, int],
        broken: Iterable[str],
        fixed: Container[str],
        problems: Problems,
    ) -> None:
        self.known = dict(declared)
        self.broken = set(broken)
        self._origin = dict.fromkeys(declared, "its declaration says")
        self._fixed, self._problems = fixed, problems
        self._mismatched: set[tuple[AxisExpr, int]] = set()

    def settle(self, equation: Equation) -> bool:
        """Use an equation if at most one unknown is left in it."""
        line = affine(equation.tree, self.known)
        if line is None:
            return False
        slope, constant, unknown = line
        if unknown is None:
            if constant != equation.size:
                self._mismatch(equation, constant)
            return True
        # A group has a unit at least; a fixed axis of any size (`~`) may be empty.
        alone = isinstance(equation.tree, Named)
        size, rest = divmod(equation.size - constant, slope)
        if rest or (size < 1 and not (alone and unknown[0] == "~")):
            if unknown not in self.broken:
                self._does_not_divide(equation)
            self.broken.add(unknown)
            return True
        self.known[unknown] = size
        self._origin[unknown] = f"{equation.label} {'is' if alone else 'makes it'}"
        return True

    def _mismatch(self, equation: Equation, made: int) -> None:
        """Report sizes that contradict each other; the same of many layers is said once."""
        if (equation.tree, equation.size) in self._mismatched:
            return
        self._mismatched.add((equation.tree, equation.size))
        tree, here = equation.tree, f"{equation.label} is {equation.size}"
        what, hint = f"{equation.shown!r} does not fit", ""
        detail = f"{here}, not {made if made < _LARGEST else 'as large as that'}"
        if isinstance(tree, Named) and tree.name not in self._fixed:
            what = f"group {tree.name!r} has two sizes"
            detail = f"{self._origin[tree.name]} {made}, {here}"
            hint = _flattened(tree.name, made, equation.size)
        elif not isinstance(tree, Fixed):
            detail += self._sources(equation)
        self._problems.add(what, place_of_axis(tree), detail=detail, hint=hint, kind="size")

    def _does_not_divide(self, equation: Equation) -> None:
        empty = isinstance(equation.tree, Named)
        self._problems.add(
            "a group needs units" if empty else f"{equation.shown!r} does not divide the axis",
            place_of_axis(equation.tree),
            detail=f"{equation.label} is {equation.size}{self._sources(equation)}",
            kind="divide",
        )

    def _sources(self, equation: Equation) -> str:
        named = (n for n in equation.names if n in self.known and n[0] != "~")
        listed = ", ".join(f"{n!r}: {self._origin[n]} {self.known[n]}" for n in named)
        return f"; {listed}" if listed else ""

    def report_unknown(self, pending: Sequence[Equation]) -> None:
        """Report what is left, but not what follows from problems that were reported."""
        # Whatever shares an equation with a broken name cannot be found for that reason, and so on
        # until nothing is added: one mistake is one message.
        unknown = [[n for n in equation.names if n not in self.known] for equation in pending]
        self.broken |= {n for names in unknown for n in names if self._problems.doubtful(n)}
        before = -1
        while len(self.broken) > before:
            before = len(self.broken)
            self.broken |= {n for names in unknown if self.broken & set(names) for n in names}
        for equation, names in zip(pending, unknown, strict=True):
            if not self.broken & set(names):
                self._unknown(equation, names)
                self.broken.update(names)

    def _unknown(self, equation: Equation, names: Sequence[str]) -> None:
        listed = " and ".join(dict.fromkeys("~" if n[0] == "~" else repr(n) for n in names))
        self._problems.add(
            f"the size of {listed} cannot be inferred",
            place_of_axis(equation.tree),
            detail=f"{equation.label} is {equation.size} = {equation.shown}",
            hint="declare a `size:` under `groups:`, or name a size and give it with --set NAME=N",
            kind="unknown",
        )


def _flattened(group: str, one: int, other: int) -> str:
    """Return a hint where one size is a multiple of another: channels before and after flatten."""
    small, large = sorted((one, other))
    if small <= 1 or large % small:
        return ""
    return (
        f"{large} = {small} * {large // small}; a flattened (channel, h, w) axis is written "
        f'"{group} * {large // small}"'
    )
