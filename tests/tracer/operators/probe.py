"""Record one operator, find its symmetry by its rule, and permute it for real."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import prod
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.axes.analysis import Analysis, AxisTerms, OperatorRule, analyse
from rebasin_cli.tracer.axes.axis_terms import (
    Atom,
    AxisTerm,
    InterleavedTerm,
    ProductTerm,
    SumTerm,
    atoms,
    extent,
    parts,
)
from rebasin_cli.tracer.derivation.parents import find_parents
from rebasin_cli.tracer.recording.record import Record, Value
from rebasin_cli.tracer.recording.recorder import Recorder
from rebasin_cli.tracer.rules import apply_rule
from tests.tracer.operators.units import Moves, Places, draw

EXACT = 1e-9  # relative, in float64: only the order of additions differs
DRAWS = 3

Run = Callable[..., Any]


class Sizes:
    """Makes random tensors; each letter stands for one size, adjacent letters for a product."""

    def __init__(
        self, seed: int, *, equal: bool = False, sizes: Mapping[str, int] | None = None
    ) -> None:
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._equal = self._random.choice([3, 4]) if equal else 0
        self._sizes = dict(sizes or {})

    def __getitem__(self, word: str) -> int:
        parts = re.findall(r"\d+|[a-z]", word)
        return prod(int(part) if part.isdigit() else self._letter(part) for part in parts)

    def __call__(self, words: str, dtype: torch.dtype = torch.float64) -> Tensor:
        shape = [self[word] for word in words.split()]
        return torch.randn(shape, dtype=dtype, generator=self._generator)

    def numbers(self, words: str, below: int) -> Tensor:
        """Return random integers: a constant of the code."""
        shape = [self[word] for word in words.split()]
        return torch.randint(below, shape, generator=self._generator)

    def mask(self, words: str) -> Tensor:
        """Return random truth values, not all the same."""
        made = self(words) > 0
        made.view(-1)[0], made.view(-1)[-1] = True, False
        return made

    def order(self, size: int) -> Tensor:
        """Return the numbers below a size, each once, never in a row of one after another."""
        return torch.arange(size).roll(1).flip(0)

    def _letter(self, letter: str) -> int:
        if letter not in self._sizes:
            self._sizes[letter] = self._equal or self._random.choice([2, 3, 4])
        return self._sizes[letter]


@dataclass(frozen=True)
class Case:
    """Parameters, and what is computed from them by calling operators through `run`."""

    parameters: tuple[Tensor, ...]
    body: Callable[..., Any]


Maker = Callable[[Sizes], Case]


def one(op: Any, *args: Any, **kwargs: Any) -> Case:
    """Return a case of one operator call; integers and truth values are constants of the code."""
    found: list[Tensor] = []
    map_leaves((args, kwargs), Tensor, lambda t: found.append(t) if _moves(t) else None)

    def body(run: Run, *given: Tensor) -> Any:
        places = {id(old): new for old, new in zip(found, given, strict=True)}
        ours, named = map_leaves((args, kwargs), Tensor, lambda t: places.get(id(t), t))
        return run(op, *ours, **named)

    return Case(tuple(found), body)


def _moves(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


@dataclass(frozen=True)
class Probe:
    """The recorded case with its analysis; values and tensors of parameters and of outputs."""

    case: Case
    analysis: Analysis
    parameters: tuple[Value, ...]
    outputs: tuple[Value, ...]
    results: tuple[Tensor, ...]

    def axes(self, value: Value) -> AxisTerms:
        return self.analysis.of(value)

    @cached_property
    def places(self) -> dict[Value, Places]:
        values = dict.fromkeys((*self.parameters, *self.outputs))
        return {v: Places(v.shape, self.axes(v), self.analysis.terms) for v in values}

    @property
    def atoms(self) -> list[Atom]:
        """The atoms of all axes and domains, in order of first use."""
        rows: list[AxisTerm] = [t for v in (*self.parameters, *self.outputs) for t in self.axes(v)]
        rows += [d for v in self.outputs if (d := self.analysis.domain(v)) is not None]
        every = (atom for term in rows for atom in atoms(self.analysis.terms.resolve(term)))
        return list(dict.fromkeys(every))


def probe(case: Case, rule: OperatorRule = apply_rule) -> Probe:
    """Record a case and analyse it; its parameters start free."""
    given = [tensor.clone() for tensor in case.parameters]
    recorder = Recorder(fake=False)
    values = tuple(recorder.name(t, f"parameter p{k}") for k, t in enumerate(given))

    def run(op: Any, *args: Any, **kwargs: Any) -> Any:
        return recorder.__torch_dispatch__(op, (), args, kwargs)

    results = _results(case, run, given)
    outputs = tuple(recorder.name(t, "unseen") for t in results)
    record = Record(tuple(recorder.calls), {}, {})
    analysis = analyse(record, record.calls, [], rule, frozenset())
    return Probe(case, analysis, values, outputs, tuple(t.clone() for t in results))


def _results(case: Case, run: Run, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    torch.default_generator.manual_seed(0)
    with torch.no_grad():
        made = case.body(run, *given)
    flat = made if isinstance(made, tuple | list) else (made,)
    return tuple(t for t in flat if isinstance(t, Tensor))


def check(found: Probe, seed: int) -> None:
    """Permute the parameters as the rule allows, in every way, and compare the outputs."""
    for value, result in zip(found.outputs, found.results, strict=True):
        sizes = tuple(extent(term) for term in found.axes(value))
        assert sizes == tuple(result.shape), f"axes of sizes {sizes} for {tuple(result.shape)}"
    generator = torch.Generator().manual_seed(seed)
    movable = [atom for atom in found.atoms if found.analysis.terms.reason(atom) is None]
    for relation in relations(found, movable):
        for _ in range(DRAWS):
            _agree(found, draw(movable, relation, generator))


def relations(found: Probe, movable: Sequence[Atom]) -> Iterator[Mapping[Atom, Atom]]:
    """Yield no parents, those that are found together, and each that could be one alone."""
    rows = [found.axes(value) for value in found.parameters]
    inside = list(dict.fromkeys(a for row in rows for a in _inside(found, row)))
    alone = (find_parents(found.analysis, [(two, one)]) for two, one in permutations(inside, 2))
    for relation in ({}, find_parents(found.analysis, rows), *alone):
        visible = {c: p for c, p in relation.items() if c in movable and _visible(found, c, p)}
        if visible or not relation:
            yield visible


def _inside(found: Probe, row: Sequence[AxisTerm]) -> list[Atom]:
    return [atom for term in row for atom in atoms(found.analysis.terms.resolve(term))]


def _visible(found: Probe, child: Atom, parent: Atom) -> bool:
    """Return whether no output has the child with a rank in the place of its parent."""
    rows = [_inside(found, found.axes(value)) for value in found.outputs]
    ranked = {a for look_up in found.analysis.look_ups for a in _inside(found, [look_up.domain])}
    return parent not in ranked or all(parent in row for row in rows if child in row)


def _agree(found: Probe, moves: Moves) -> None:
    given = [
        found.places[value].permuted(tensor, moves)
        for tensor, value in zip(found.case.parameters, found.parameters, strict=True)
    ]
    after = _results(found.case, lambda op, *args, **kwargs: op(*args, **kwargs), given)
    for value, before, result in zip(found.outputs, found.results, after, strict=True):
        expected = found.places[value].permuted(before, moves)
        now = _renamed(found, value, result, moves)
        assert now.shape == expected.shape
        assert same(now, expected), f"{found.analysis.record.calls[-1].name} tells units apart"


def _renamed(found: Probe, value: Value, numbers: Tensor, moves: Moves) -> Tensor:
    """Return an output as it is, or with the old units that its numbers name."""
    domain = found.analysis.domain(value)
    if domain is None or numbers.shape != value.shape:
        return numbers
    resolved = found.analysis.terms.resolve(domain)
    return found.places[value].old_numbers(numbers, resolved, moves).to(numbers.dtype)


def same(one: Tensor, two: Tensor) -> bool:
    """Return whether two tensors are equal but for rounding."""
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, two)
    return torch.allclose(one, two, rtol=EXACT, atol=EXACT, equal_nan=True)


def described(found: Probe) -> str:
    """Return the axes as text: letters for atoms in order of use, `3!` for three fixed units."""
    names: dict[Atom, str] = {}

    def text(term: AxisTerm, inside: bool = False) -> str:
        if isinstance(term, Atom):
            if found.analysis.terms.reason(term) is not None:
                return f"{term.size}!"
            return names.setdefault(term, chr(ord("a") + len(names)))
        if isinstance(term, ProductTerm):
            return "*".join(text(factor, True) for factor in term.factors) or "1"
        turns, plain = isinstance(term, InterleavedTerm), isinstance(term, SumTerm)
        sign = " & " if turns else " + " if plain else " | "
        joined = sign.join(text(row, turns) for row in parts(term))
        return f"({joined})" if inside else joined

    def whole(value: Value) -> str:
        row = ", ".join(text(found.analysis.terms.resolve(t)) for t in found.axes(value))
        domain = found.analysis.domain(value)
        return f"[{row}]" + (
            f" of {text(found.analysis.terms.resolve(domain))}" if domain is not None else ""
        )

    given, made = ([whole(v) for v in row] for row in (found.parameters, found.outputs))
    return f"{' '.join(given)} -> {' '.join(made)}"
