"""Two models brought into one order by what their units do on data: observed, then matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rebasin_cli.activations.observe import check_unit_room, units_on
from rebasin_cli.activations.units import SIMILARITIES, UnitMoments
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import SpecError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.matching.match_activations import (
    BoundModels,
    PlaceSimilarity,
    covered_roots,
    match_activations,
    places_of_covered_families,
)
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import build_network
from rebasin_cli.network.network import Network
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.machine import Machine
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.spec_choice.traced_fit import fit_traced_model
from rebasin_cli.tracer.points.points import point_kind


@dataclass(frozen=True)
class UnitPair:
    """Two models whose units are compared, the reference first, and how."""

    reference: Checkpoint
    other: Checkpoint
    choice: Choice
    machine: Machine
    chosen: Activations = Activations()

    def match(self, units: Sequence[UnitMoments], search: Search, progress: Progress) -> Matching:
        """Return the matching of the other to the reference, from what the units of both do.

        Raises SpecError if the units seen cover no family of the spec, see `covered_roots`.
        """
        choice = self.choice
        bound, similarity = choice.bound, SIMILARITIES[self.chosen.similarity]
        similarities = [
            PlaceSimilarity(u.dims, similarity(u.cross).cpu()) for u in units if _fits(u, bound)
        ]
        places = places_of_covered_families(bound, similarities)
        if not places:
            raise SpecError(
                f"no activations tell of a group of {choice.name}",
                detail=f"its groups are {', '.join(bound.groups)}",
                hint="the groups need the names that `rebasin spec trace` gives them: "
                "leave out --spec",
            )
        paths = str(self.reference.path), str(self.other.path)
        found = match_activations(
            BoundModels(self.reference, self.other, bound, choice.movable, paths),
            places,
            replace(self.machine.settings(search), method="auto"),
            mix=self.chosen.mix,
            progress=progress,
        )
        covered = covered_roots(bound, places)
        unseen = (g.name for g in bound.groups.values() if not g.fixed and g.root not in covered)
        return replace(found, unseen=tuple(unseen))

    def observe(
        self,
        network: Network,
        batches: Batches,
        selection: Selection,
        tracing: Tracing,
        progress: Progress,
    ) -> Sequence[UnitMoments]:
        """Return what the units of the two models do on some batches."""
        model = self.choice.traced or fit_traced_model(
            headers_of([self.reference]), selection, tracing
        )
        points = model.known.trace.points[point_kind(self.chosen.point, self.chosen.stream)]
        check_unit_room(points, self.choice.bound, self.machine)
        ends = (self.reference, self.other)
        return units_on(
            [build_network(network, end, self.machine) for end in ends],
            batches,
            points,
            self.choice.bound,
            progress=progress,
        )


def _fits(units: UnitMoments, bound: BoundSpec) -> bool:
    """Return whether the spec has the groups of some units, and one that may move."""
    sizes = {group.name: group.size for group in bound.groups.values()}
    free = any(not bound.groups[name].fixed for name, _ in units.dims if name in sizes)
    return free and all(sizes.get(name) == size for name, size in units.dims)
