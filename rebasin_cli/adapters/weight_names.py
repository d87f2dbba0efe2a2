"""Names in an adapter brought to those of the model: one prefix more or less, dots or underscores.

Each head of an adapter (`lora_unet_`, `text_encoder.`) names the modules of one network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rebasin_cli.adapters.factor_names import UNDERSCORED, FactorEntry


@dataclass(frozen=True)
class FoundWeights:
    """The weights of an adapter's tensors, by the tensor's name.

    foreign: tensors of other networks than the model. lacking: those whose weight is not there.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Match:
    """weights: by the adapter's names. beside: how many tensors are of no such network."""

    weights: Mapping[str, str] = field(default_factory=dict)
    beside: int = 0


def find_weights_of(entries: Sequence[FactorEntry], names: Collection[str]) -> FoundWeights:
    """Return which tensor of a model each entry belongs to.

    Where none does, all are lacking: nothing says that it is the model that they go with.
    """
    heads: dict[str, list[FactorEntry]] = {}
    for entry in entries:
        heads.setdefault(entry.head, []).append(entry)
    matches = {head: _match(head, mine, names) for head, mine in heads.items()}
    weights = {name: w for match in matches.values() for name, w in match.weights.items()}
    if not weights:
        return FoundWeights(lacking=tuple(entry.name for entry in entries))
    # They could be in the model under other names, if it has as many tensors beside what is found.
    strange = [e for e in entries if e.head and not matches[e.head].weights]
    beside = min(match.beside for match in matches.values() if match.weights)
    elsewhere = beside < len({entry.target for entry in strange})
    foreign = tuple(entry.name for entry in strange if elsewhere)
    told = {*weights, *foreign}
    return FoundWeights(weights, foreign, tuple(e.name for e in entries if e.name not in told))


def _match(head: str, entries: Sequence[FactorEntry], names: Collection[str]) -> _Match:
    """Return the weights under the renaming that finds most; none where two find as many."""
    flat = bool(UNDERSCORED.fullmatch(head))
    spelled = {_flat(name) if flat else name: name for name in names}
    targets = {e.name: _flat(e.target) if flat else e.target for e in entries}
    found: list[_Match] = []
    for front, added in _renamings(head, sorted(set(targets.values())), spelled, flat=flat):
        renamed = {name: added + t.removeprefix(front) for name, t in targets.items()}
        weights = {name: spelled[t] for name, t in renamed.items() if t in spelled}
        found.append(_Match(weights, sum(not name.startswith(added) for name in spelled)))
    plain = found[0]
    most = max(len(match.weights) for match in found)
    best = [match for match in found if len(match.weights) == most]
    if plain in best:
        return plain
    return best[0] if all(match.weights == best[0].weights for match in best) else _Match()


def _renamings(
    head: str, targets: Sequence[str], names: Collection[str], *, flat: bool
) -> Iterator[tuple[str, str]]:
    """Yield pairs of a prefix to take away and one to put in front, the plainest first."""
    mark = "_" if flat else "."
    known: dict[tuple[str, str], None] = {("", ""): None, ("", head): None}
    for target in targets:
        for front in ("", target.partition(mark)[0] + mark):
            rest = target.removeprefix(front)
            ends = (n for n in names if mark in rest and (n == rest or n.endswith(mark + rest)))
            known |= dict.fromkeys((front, name.removesuffix(rest)) for name in ends)
    yield from known


def _flat(name: str) -> str:
    return name.replace(".", "_")
