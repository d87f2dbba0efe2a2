"""The names of some models brought to those of the first, by the smallest renaming that does it.

A prefix on all names or on a part of them, a wrapper's segment, LayerNorms with gamma and beta:
programs differ in these, and networks do not. Files keep the names that they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.renamed import is_counter
from rebasin_cli.tensors import TensorInfo, infos

NameMap = Mapping[str, str]  # a tensor's name -> what it is seen as

# Prefixes that are tried of each side: top-level modules of a model are few.
_MOST = 24
_GAMMA = {"gamma": "weight", "beta": "bias"}
_ORIGINAL = "original"


@dataclass(frozen=True)
class NameMatch:
    """A renaming of one model, and how far it brings it.

    agreeing: the part of it after which tensors agree in shape. differing: names that do not.
    """

    names: NameMap
    agreeing: NameMap
    differing: int

    @property
    def rank(self) -> tuple[int, int]:
        return len(self.agreeing), -self.differing


def agree_on_names(models: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the models under the names of the first, and tied pairs under both of theirs."""
    first, *others = models
    wanted = infos(first)
    renamed = [first, *(m.renamed(nearest_renaming(wanted, infos(m)), {}) for m in others)]
    ties = {pair for model in renamed for pair in model.ties.items()}
    return [model.renamed({}, _lent(model, ties)) for model in renamed]


def nearest_renaming(wanted: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo]) -> NameMap:
    """Return the new names of tensors, as near to the wanted ones as a renaming can bring them.

    Nothing is renamed where that brings nothing, or where two renamings would do as well.
    """
    plain = {name: name for name in found}
    if found.keys() == wanted.keys():
        return plain
    least = _match(plain, wanted, found)
    matches = (_match(names, wanted, found) for names in _candidates(wanted, found))
    better = [match for match in matches if len(match.agreeing) > len(least.agreeing)]
    best = max(better, key=lambda match: match.rank, default=least)
    alike = any(m.rank == best.rank and m.agreeing != best.agreeing for m in better)
    return plain if alike else best.names


def normal_names(found: Mapping[str, TensorInfo]) -> NameMap:
    """Return names without what modules around a module add, and as new LayerNorms have them.

    A gamma without a beta is the scale of a layer, and no LayerNorm's. A parametrization that has
    tensors of its own, or whose matrix is square and could be made symmetric, stays.
    """
    new = {name: _normal(name, found) for name in found}
    return new if len(set(new.values())) == len(new) else {name: name for name in found}


def uniform_prefixes(found: Mapping[str, TensorInfo]) -> list[str]:
    """Return the prefixes that all names have but counters, which wrappers add, shortest first."""
    weights = [n for n, info in found.items() if not is_counter(info)] or list(found)
    if not weights:
        return []
    low, high = min(weights), max(weights)
    ends = [k + 1 for k in range(min(len(low), len(high))) if low[k] == "." and low[k] == high[k]]
    return [low[:end] for end in ends if low[:end] == high[:end] and low[:end] not in weights]


def _candidates(
    wanted: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo]
) -> Iterator[NameMap]:
    """Yield renamings, the plain ones first."""
    plain = {name: name for name in found}, {name: name for name in wanted}
    forms = [plain, (normal_names(found), normal_names(wanted))]
    for ours, theirs in forms if forms[1] != plain else forms[:1]:
        back = {new: old for old, new in theirs.items()}
        targets = {theirs[name]: info for name, info in wanted.items()}
        sources = {ours[name]: info for name, info in found.items()}
        for names in _prefixed(targets, sources):
            new = {old: names[middle] for old, middle in ours.items()}
            yield {old: back.get(name, name) for old, name in new.items()}


def _prefixed(
    wanted: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo]
) -> Iterator[NameMap]:
    """Yield renamings that strip a prefix and add one: of all names, then of a part of them."""
    starts = ["", *uniform_prefixes(found)]
    bare = [{name: name.removeprefix(start) for name in found} for start in starts]
    yield from bare
    for prefix in uniform_prefixes(wanted):
        for names in bare:
            yield {old: f"{prefix}{new}" for old, new in names.items()}
    for names in bare:
        for prefix in _heads(names.values()):
            yield {old: new.removeprefix(prefix) for old, new in names.items()}
        for prefix in _heads(wanted):
            yield _under(prefix, names, wanted)


def _under(prefix: str, names: NameMap, wanted: Mapping[str, TensorInfo]) -> NameMap:
    """Return names with a prefix where that is a module of the wanted ones, heads aside."""
    tops = {_top(name) for name in wanted}
    inside = {_top(n.removeprefix(prefix)) for n in wanted if n.startswith(prefix)} - tops
    return {old: f"{prefix}{new}" if _top(new) in inside else new for old, new in names.items()}


def _heads(names: Iterable[str]) -> list[str]:
    """Return the first modules of names, as prefixes."""
    found = dict.fromkeys(f"{_top(name)}." for name in names if "." in name)
    return list(islice(found, _MOST))


def _top(name: str) -> str:
    return name.partition(".")[0]


def _match(
    names: NameMap, wanted: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo]
) -> NameMatch:
    new = set(names.values())
    if len(new) < len(names):
        return NameMatch(names, {}, len(wanted) + len(names))
    agreeing = {
        old: name
        for old, name in names.items()
        if name in wanted and wanted[name].shape == found[old].shape
    }
    return NameMatch(names, agreeing, len(new ^ wanted.keys()))


def _normal(name: str, found: Mapping[str, TensorInfo]) -> str:
    *path, last = name.split(".")
    module = ".".join(path)
    pair = {f"{module}.{other}" for other in _GAMMA}
    if last in _GAMMA and pair <= found.keys() and f"{module}.weight" not in found:
        last = _GAMMA[last]
    if path[-2:-1] == ["parametrizations"] and _is_original(name, found):
        path, last = path[:-2], path[-1]
    return ".".join([*(part for part in path if part != "module"), last])


def _is_original(name: str, found: Mapping[str, TensorInfo]) -> bool:
    """Return whether a tensor is the only one of its parametrization, and so the weight itself."""
    inside = name.rpartition(".")[0] + "."
    shape = found[name].shape
    square = len(shape) > 1 and shape[0] == shape[1]
    return not square and [n for n in found if n.startswith(inside)] == [f"{inside}{_ORIGINAL}"]


def _lent(model: Checkpoint, ties: set[tuple[str, str]]) -> dict[str, str]:
    """Return the names that a model lacks of tied pairs -> the ones it has of them."""
    names = set(model.names())
    pairs = sorted({*ties, *((b, a) for a, b in ties)})
    return {lacking: there for lacking, there in pairs if lacking not in names and there in names}
