"""Block ascent over families of groups, each with the maps of its class, on folded models.

The objective of weight matching (arXiv 2209.04836, section 3.2) with every block divided by its
norms, sum over blocks of <A, M B> / (|A| |B|): a stream that no gain fixes has a free scale, which
must not decide what counts (the plain sum ends at .56 instead of .36 when a stream is tripled). A
block and not a tensor: queries, keys and values that are stored as one are three things.

One family after another is put where it is best with all others in place, as they come in the file;
groups that are not permuted, the residual streams, last: they see a sum over all layers, and the
layers can answer to them only from where they are. The first place of a stream comes from rows that
mean the same in both models without any matching: those of the vocabulary, positions, classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod

import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.matching.problem.axis_chains import Site, occurrences
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.matching.search.threads import one_thread
from rebasin_cli.merging.sources import all_finite
from rebasin_cli.permutation import identity
from rebasin_cli.progress import Progress, silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.bound_norms import weight_of
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.class_solvers import SOLVERS
from rebasin_cli.symmetry.family_solution import FamilySolver, LinearTerm
from rebasin_cli.symmetry.maps import GroupMaps, OrthogonalMap, carry
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor

Place = tuple[str, int]  # a block: the first name of its tensor, and its offset

RISE = 1e-4  # of the objective in a sweep, below which the search ends
TINY = 1e-300
SWEEPS = 20  # five are within .02 of the barrier


@dataclass(frozen=True)
class MapMatching:
    """The maps that bring the other model next to the reference.

    cosine: of the two folded models, before and after. sweeps: how often each family was visited.
    null: the cosine that unrelated weights come to by the same search; None: not looked for.
    """

    maps: GroupMaps
    cosine: Change
    sweeps: int
    null: float | None = None


@dataclass
class MapSearch:
    """A search in progress: the other model is moved in place as better maps are found.

    Tensors are float64 and in memory, as `BoundTensor.load` gives them. moments: of streams, by
    group: what the reference's units do with those of the other model, (d, d); rise: see
    `match_maps`.
    """

    bound: BoundSpec
    classes: Mapping[str, str]
    reference: Mapping[str, Tensor]
    other: dict[str, Tensor]
    maps: GroupMaps
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    rise: float = RISE
    families: Mapping[str, GroupFamily] = field(init=False)
    weights: Mapping[Place, float] = field(init=False)

    def __post_init__(self) -> None:
        self.families = families(self.bound)
        sites = [site for family in self.families.values() for site in family.sites]
        self.weights = _weights(sites, self.reference, self.other)

    def run(self, progress: Progress = silent) -> MapMatching:
        """Sweep until the objective rises no more."""
        ordered = sorted(self.families, key=lambda root: self.classes[root] != PERMUTATION)
        last = [root for root in ordered if self.classes[root] != PERMUTATION]
        before, reached = self.cosine(), -inf
        if self.moments:
            self._by_moments(ordered)
            return MapMatching(self.maps, Change(before, self.cosine()), 2)
        for root in last:
            self._visit(root, anchored=True)
        for sweep in range(SWEEPS):
            progress("matching", sweep, SWEEPS)
            for root in ordered:
                self._visit(root)
            last_reached, reached = reached, self.objective()
            if reached - last_reached < self.rise * abs(reached):
                break
        return MapMatching(self.maps, Change(before, self.cosine()), sweep + 1)

    def _by_moments(self, ordered: Sequence[str]) -> None:
        """Turn streams by what they do, put the rest by weights; then both once more, hybrid.

        G and the similarities of the weights M each divided by its nuclear norm, the most that it
        can be worth: Q = polar(G / |G| + M / |M|). Further rounds change the barrier by .01.
        """
        moments = self.moments
        for alone in (True, False):
            for root in ordered:
                if root in moments:
                    self._turn(root, moments[root], alone=alone)
            for root in ordered:
                if root not in moments:
                    self._visit(root)

    def _turn(self, root: str, moments: Tensor, *, alone: bool) -> None:
        """Turn a stream by its moments, alone or with what weights say. moments: of B unmoved."""
        here = moments @ self.maps.linear[root].matrix.T
        total = here / torch.linalg.svdvals(here).sum()
        terms = [] if alone else list(self._terms(self.families[root], anchored=False))
        if terms:
            weights = torch.stack([t.reference @ t.other.T for t in terms]).sum(0)
            total = total + weights / torch.linalg.svdvals(weights).sum()
        matrix = SOLVERS[self.classes[root]](total[None])[0]
        self._move(self.families[root], GroupMaps({}, {root: OrthogonalMap(matrix)}))

    def objective(self) -> float:
        """Return the sum over blocks of <A, M B> / (|A| |B|), as the models are now."""
        blocks = self._blocks().items()
        return sum(self.weights[place] * float((a * b).sum()) for place, (a, b) in blocks)

    def cosine(self) -> float:
        """Return the cosine of the two models, all voting blocks taken as one vector."""
        pairs = list(self._blocks().values())
        inner = sum(float((a * b).sum()) for a, b in pairs)
        squares = (sum(float(each[k].square().sum()) for each in pairs) for k in (0, 1))
        return inner / max(prod(squares) ** 0.5, TINY)

    def _blocks(self) -> dict[Place, tuple[Tensor, Tensor]]:
        """Return the blocks that vote for a family, each once, as the models are now."""
        sites = (site for family in self.families.values() for site in family.sites)
        return {_place(site): self._views(site) for site in sites}

    def _views(self, site: Site) -> tuple[Tensor, Tensor]:
        key = _key(site.tensor)
        return site.block.view(self.reference[key]), site.block.view(self.other[key])

    def _visit(self, root: str, *, anchored: bool = False) -> None:
        family = self.families[root]
        terms = list(self._terms(family, anchored=anchored))
        if not terms:
            return
        step = FamilySolver(self.bound.groups, self.classes).solve(root, terms)
        if family.meets_itself:
            self._try(family, step)
        else:
            self._move(family, step)

    def _try(self, family: GroupFamily, step: GroupMaps) -> None:
        """Move the other model where that raises the objective, which is not linear in the family.

        A weight that reads and writes one stream, Q W Q', is quadratic in Q: the best map of its
        linearisation may be worth less than where it was made.
        """
        before = self.objective(), dict(self.other), self.maps
        self._move(family, step)
        if self.objective() <= before[0]:
            _, self.other, self.maps = before

    def _terms(self, family: GroupFamily, *, anchored: bool) -> Iterator[LinearTerm]:
        """Yield the terms of a family; anchored: of blocks that no other family is in, alone."""
        for site in family.sites:
            if anchored and len(site.chains) > 1:
                continue
            a, b = self._views(site)
            groups = site.block.groups
            for axes in occurrences(groups, family.root, self.bound.groups):
                rest = [k for k in range(len(groups)) if k not in axes]
                names = tuple(groups[k] or "" for k in axes)
                mine, theirs = (_lined_up(values, axes, rest) for values in (a, b))
                yield LinearTerm(names, mine * self.weights[_place(site)], theirs)

    def _move(self, family: GroupFamily, step: GroupMaps) -> None:
        """Move the other model, and remember the way that it has come."""
        for tensor in _tensors(family.sites):
            self.other[_key(tensor)] = carry(self.other[_key(tensor)], tensor, step)
        self.maps = self.maps.then(step)


def _lined_up(values: Tensor, axes: Sequence[int], rest: Sequence[int]) -> Tensor:
    head = [values.shape[k] for k in axes]
    return values.permute(*axes, *rest).reshape(*head, -1)


def _key(tensor: BoundTensor) -> str:
    return tensor.members[0]


def _tensors(sites: Sequence[Site]) -> list[BoundTensor]:
    return list({_key(site.tensor): site.tensor for site in sites}.values())


def match_maps(
    reference: TensorSource,
    other: TensorSource,
    bound: BoundSpec,
    classes: Mapping[str, str],
    *,
    moments: Mapping[str, Tensor] | None = None,
    rise: float = RISE,
    progress: Progress = silent,
) -> MapMatching:
    """Return the maps of `other` that bring it next to `reference`; both are folded.

    bound: `FoldPlan.moving`. classes: group -> solver, `FoldPlan.classes`. moments: E[y_A y_B'] of
    what the models do on data, by stream, float64 (d, d); None: by weights alone. rise: share of
    the objective that a sweep has to gain, or the search ends. On one thread: the rounding of a
    product does not depend on the load of the machine. Raises NotFiniteError.
    """
    a, b = (_voting(bound, model) for model in (reference, other))
    with one_thread():
        search = MapSearch(bound, classes, a, b, still(bound, classes), moments or {}, rise)
        return search.run(progress)


def cosine_of(
    reference: TensorSource, other: TensorSource, bound: BoundSpec, classes: Mapping[str, str]
) -> float:
    """Return the cosine of two folded models as they are, as `match_maps` takes it.

    Raises NotFiniteError.
    """
    a, b = (_voting(bound, model) for model in (reference, other))
    return MapSearch(bound, classes, a, b, still(bound, classes)).cosine()


def _voting(bound: BoundSpec, model: TensorSource) -> dict[str, Tensor]:
    return {_key(t): _loaded(t, model) for t in bound.tensors if t.votes and t.groups}


def _loaded(tensor: BoundTensor, model: TensorSource) -> Tensor:
    values = tensor.load(model).double()
    if not all_finite(values):
        raise NotFiniteError(f"tensor {_key(tensor)!r} holds NaN or infinity")
    return values


def _place(site: Site) -> Place:
    return _key(site.tensor), site.block.offset


def _weights(
    sites: Iterable[Site], reference: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[Place, float]:
    """Return 1 / (|A| |B|) of every block, 0 where one has nothing in it.

    A bias takes that of the rows of its matrix that it is added to: by itself, small and nearly
    zero as it may be, it would count as much as they do.
    """
    blocks = {_place(site): site.block for site in sites}
    by_tensor: dict[str, list[Place]] = {}
    for place in blocks:
        by_tensor.setdefault(place[0], []).append(place)
    found = {}
    for key, places in by_tensor.items():
        matrix = by_tensor.get(weight_of(key), places)
        alike = matrix if len(matrix) == len(places) else places
        for place, measure in zip(places, alike, strict=True):
            a, b = (blocks[measure].view(each[measure[0]]) for each in (reference, other))
            size = float(a.norm() * b.norm())
            found[place] = 1 / size if size > 0 else 0.0
    return found


def still(bound: BoundSpec, classes: Mapping[str, str]) -> GroupMaps:
    """Return the maps that move nothing."""
    permuted = {n: g for n, g in bound.groups.items() if classes[n] == PERMUTATION}
    return GroupMaps(
        {name: identity(group.shape, group.parents) for name, group in permuted.items()},
        {
            name: OrthogonalMap(
                torch.eye(group.size, dtype=torch.float64).expand(*group.shape, group.size),
                group.parents,
            )
            for name, group in bound.groups.items()
            if name not in permuted
        },
    )
