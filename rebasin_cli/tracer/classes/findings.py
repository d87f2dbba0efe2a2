"""What a pass over the states of units says of groups: classes, norms that fold, and reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rebasin_cli.spec.binding.bound_norms import bias_of
from rebasin_cli.spec.language.model import (
    EVERY_TYPE,
    KEEPING_MEAN,
    ORTHOGONAL,
    PERMUTATION,
    ROTARY,
    SIGNED,
    Norm,
    Spec,
)
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME
from rebasin_cli.tracer.axes.analysis import Analysis
from rebasin_cli.tracer.axes.axis_terms import Atom, atoms
from rebasin_cli.tracer.classes.rotary_axes import RotaryAxis, rotary_axes
from rebasin_cli.tracer.classes.rules import unit_state
from rebasin_cli.tracer.classes.rules.unit_signs import sign_forms
from rebasin_cli.tracer.classes.signs.sign_forms import signed_parts
from rebasin_cli.tracer.classes.signs.signed_units import SignedUnits, signed_units, signs_in_spec
from rebasin_cli.tracer.classes.unit_states import UnitStates
from rebasin_cli.tracer.recording.record import Call, Value


@dataclass(frozen=True)
class ClassFindings:
    """What may be done to the units of groups beside permuting them; claimed, not yet proved.

    classes: group -> its class, of those that may be more than permuted. norms: gain -> how its
    norm folds, by names of tensors. over: gain -> the group that it scales. reasons: group -> why
    its units can be permuted only. rotary: axes that positions may be turned into. signs: of units
    that are multiplied with others; not among the classes before a spec is there that has them.
    """

    classes: Mapping[str, str] = field(default_factory=dict)
    norms: Mapping[str, Norm] = field(default_factory=dict)
    over: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    rotary: tuple[RotaryAxis, ...] = ()
    signs: tuple[SignedUnits, ...] = ()

    def without(self, groups: Mapping[str, str]) -> ClassFindings:
        """Return the findings where some groups are permuted only. groups: name -> the reason."""
        gains = {gain for gain, group in self.over.items() if group in groups}
        return replace(
            self,
            classes={name: found for name, found in self.classes.items() if name not in groups},
            norms={gain: norm for gain, norm in self.norms.items() if gain not in gains},
            reasons={**self.reasons, **groups},
            rotary=tuple(axis for axis in self.rotary if axis.group not in groups),
            signs=tuple(units for units in self.signs if units.group not in groups),
        )

    def in_spec(self, spec: Spec) -> ClassFindings:
        """Return the findings with the classes of those signs that a spec has a place for."""
        signs = signs_in_spec(spec, self.signs)
        signed = {units.group: SIGNED for units in signs}
        return replace(self, classes={**self.classes, **signed}, signs=signs)

    def uncentred(self, groups: Sequence[str]) -> ClassFindings:
        """Return the findings where the norms over some groups fold by their gain alone."""
        norms = {
            gain: replace(norm, kind="rms")
            if norm.kind == "layer" and self.over[gain] in groups
            else norm
            for gain, norm in self.norms.items()
        }
        centred = {self.over[gain] for gain, norm in self.norms.items() if norm.kind == "layer"}
        keeping = dict.fromkeys(centred.intersection(groups), KEEPING_MEAN)
        return replace(self, norms=norms, classes={**self.classes, **keeping})

    def like(self, proved: Spec) -> ClassFindings:
        """Return the findings as far as the spec of a smaller model has them, layer for layer."""
        known = {_mask_indices(name): declared.maps for name, declared in proved.groups.items()}
        kinds = {_mask_indices(gain): norm.kind for gain, norm in proved.norms.items()}
        rotary = tuple(
            a for a in self.rotary if known.get(_mask_indices(a.group), "").startswith(ROTARY)
        )
        signs = tuple(u for u in self.signs if known.get(_mask_indices(u.group)) == SIGNED)
        names = (*self.classes, *(axis.group for axis in rotary))
        maps = {name: known.get(_mask_indices(name), PERMUTATION) for name in names}
        norms = {
            gain: replace(norm, kind=kinds[_mask_indices(gain)])
            for gain, norm in self.norms.items()
            if _mask_indices(gain) in kinds
        }
        classes = {name: found for name, found in maps.items() if found != PERMUTATION}
        return replace(self, classes=classes, norms=norms, rotary=rotary, signs=signs)


def _mask_indices(name: str) -> str:
    return INDEX_IN_NAME.sub("#", name)


def find_classes(
    analysis: Analysis,
    calls: Sequence[Call],
    outputs: Iterable[Value],
    named: Mapping[Atom, str],
) -> ClassFindings:
    """Return the classes of the groups that move. named: atoms of groups -> names of these."""
    free = frozenset(a for a in named if analysis.terms.reason(a) is None and a.size > 1)
    states = UnitStates(analysis, free)
    states.run(calls, unit_state)
    _forbid_outputs(states, outputs)
    tables = _tables(analysis, calls)
    _forbid_readers(states)
    _forbid_gains(states, tables)
    allowed = [atom for atom in named if atom in free and atom not in states.forbidden]
    over = {gain: use.atom for gain, use in states.gains.items()}
    over |= {gain: atom for gain, (atom, _) in states.scales.items()}
    norms = {
        gain: _norm(analysis, states, gain, tables) for gain, a in over.items() if a in allowed
    }
    normed = {use.atom for use in states.gains.values()}
    signs = signed_parts(states, [a for a in named if a in free - {*allowed}], calls, sign_forms)
    return ClassFindings(
        classes={
            named[a]: KEEPING_MEAN if a in states.centred and a not in normed else ORTHOGONAL
            for a in allowed
        },
        norms=norms,
        over={gain: named[over[gain]] for gain in norms},
        reasons={named[atom]: why for atom, why in states.forbidden.items() if atom in free},
        rotary=rotary_axes(states, calls, named.values()),
        signs=signed_units({named[a]: parts for a, parts in signs.items()}, named.values()),
    )


def _forbid_outputs(states: UnitStates, outputs: Iterable[Value]) -> None:
    for value in outputs:
        for atom in (a for term in states.axes(value) for a in atoms(term)):
            states.forbidden.setdefault(atom, "the model returns its units")


def _tables(analysis: Analysis, calls: Sequence[Call]) -> frozenset[Value]:
    """Return the parameters of which rows are looked up."""
    return frozenset(analysis.original(c.args[0]) for c in calls if c.name == "embedding")


def _forbid_readers(states: UnitStates) -> None:
    """Forbid atoms of which a weight reads the units with more than one gain, or with and without.

    A weight can be multiplied by one gain only.
    """
    by_reader: defaultdict[tuple[str, Atom], list[str]] = defaultdict(list)
    for gain, use in states.gains.items():
        for reader in use.readers:
            by_reader[reader, use.atom].append(gain)
    for (reader, atom), gains in by_reader.items():
        if len(gains) > 1:
            states.forbidden.setdefault(atom, f"{reader} reads it with gains {' and '.join(gains)}")
    for atom in {use.atom for use in states.gains.values()}:
        for reader in states.bare[atom]:
            states.forbidden.setdefault(atom, f"{reader} reads it without a gain, others with one")


def _forbid_gains(states: UnitStates, tables: frozenset[Value]) -> None:
    """Forbid rotations of atoms whose gain, or what is taken for one, cannot be folded."""
    named = {value.source.partition(" ")[2] for value in tables}
    for gain in states.gains.keys() & states.scales.keys():
        states.forbidden.setdefault(states.gains[gain].atom, f"{gain} is read and added as well")
    for gain, use in states.gains.items():
        why = None
        if not use.readers:
            why = f"no weight reads what {gain} scales"
        elif use.offset > 1:
            why = f"{gain} has {use.offset} added to it"
        elif named & use.readers.keys() and len(use.readers) > 1:
            why = f"a table of rows and a weight both take over {gain}"
        if why:
            states.forbidden.setdefault(use.atom, why)
    for atom, vectors in states.added.items():
        for name in (n for n in vectors if n in states.gains or n in states.scales):
            states.forbidden.setdefault(atom, f"{name} is a gain and is added as well")


def _norm(analysis: Analysis, states: UnitStates, gain: str, tables: frozenset[Value]) -> Norm:
    if gain in states.scales:
        return Norm("scale", writers=tuple(sorted(states.scales[gain][1])))
    use = states.gains[gain]
    kind = "layer" if use.atom in states.centred else "rms"
    one_plus = (EVERY_TYPE,) if use.offset else ()
    bias = use.bias if use.bias and use.bias != bias_of(gain) else None
    table = next((v for v in tables if v.source.partition(" ")[2] in use.readers), None)
    if table is None:
        return Norm(kind, tuple(use.readers), None, one_plus, bias)
    # Its other names are those of one storage, and not readers: where files keep a copy for each,
    # the copies stay equal, or the class that ties them would lose one.
    first = next(name for name, value in analysis.record.tensors.items() if value is table)
    return Norm(kind, (), first, one_plus, bias)
