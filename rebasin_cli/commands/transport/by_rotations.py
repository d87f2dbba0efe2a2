"""Maps beyond permutations, between models whose norms are folded: the result is folded too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rebasin_cli.alignment.report import agreement_fields, agreement_text
from rebasin_cli.alignment.unit_report import before_and_after
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.transport.command import TransportRequest
from rebasin_cli.commands.transport.held_out import learned_batches
from rebasin_cli.commands.transport.tensor_fates import TensorFates, refuse_replaced
from rebasin_cli.commands.transport.transported import CarriedFrame
from rebasin_cli.commands.transport.way import CarriedModels, SearchedWay, ThreeModels
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.files.provenance import folded_basin
from rebasin_cli.folding.folded_models import check_tied, fold_model, measure_function
from rebasin_cli.folding.rotated_outcome import count_classes
from rebasin_cli.folding.rotation_data import ACTIVATIONS, measure_streams, plan_rotation_code
from rebasin_cli.folding.rotation_problem import (
    METHODS,
    HeldModels,
    RotationProblem,
    check_rotating,
    plan_rotations,
    tell_unsearched,
)
from rebasin_cli.folding.tied_heads import Heads
from rebasin_cli.network.built import batches_of
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_search import match_maps
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.wording import count


@dataclass(frozen=True)
class RotationWay(SearchedWay):
    """A problem of the target, the origin and the tuned model."""

    problem: RotationProblem

    @property
    def tuned(self) -> Checkpoint:
        return self.problem.models[2]

    @property
    def heads(self) -> Heads:
        return self.problem.heads

    def describe(self) -> dict[str, Any]:
        return {"spec": self.spec, **self.problem.describe()}

    def bring(self, progress: Progress) -> CarriedModels:
        """Return the three models folded, two of them rotated next to the target.

        Raises PermutationError where a function would not stay.
        """
        problem, folding = self.problem, self.problem.folding
        selection = self.request.selection
        folded = [FoldedNorms(finite_model(m, selection), folding) for m in problem.models]
        tied = [check_tied(each, m) for each, m in zip(folded, problem.models, strict=True)]
        found = self._match(folded, progress)
        moved = [Carried(each, folding.moving.tensors, found.maps) for each in folded[1:]]
        progress("checking the function", 0, 0)
        where = self.origin.path
        function = measure_function(problem.check, self.origin, moved[0], tied[1], where)
        norms = fold_model(self.target, folding, problem.check, self.spec).norms
        frame = CarriedFrame(folded[0], moved[1], moved[0])
        fields = {
            "spec": self.spec,
            "classes": count_classes(folding.classes),
            "cosine": before_and_after(found.cosine),
            "folded": True,
            "untied": sorted(self.heads),
            **agreement_fields(function),
        }
        lines = (*self._lines(found, norms), *([agreement_text(function)] if function else []))
        return CarriedModels(frame, lines, fields, folded_basin(self.target), facts=problem.facts)

    def _lines(self, found: MapMatching, norms: int) -> tuple[str, ...]:
        """Return the report's lines on the maps and on the form of the result."""
        classes = count_classes(self.problem.folding.classes).items()
        heads = ", ".join(map(repr, sorted(self.heads)))
        apart = (f"its own now, {heads}: tie_word_embeddings must be false",) if heads else ()
        return (
            f"cosine of the folded bases {found.cosine.before:.3f} -> {found.cosine.after:.3f}, "
            f"{', '.join(f'{number} {name}' for name, number in classes)}, spec {self.spec}",
            f"the result is {self.target.path} folded ({count(norms, 'norm')}, see rebasin fold)",
            *apart,
        )

    def _match(self, folded: Sequence[FoldedNorms], progress: Progress) -> MapMatching:
        """Return the maps that bring the folded origin next to the folded target."""
        folding = self.problem.folding
        return match_maps(
            folded[0],
            folded[1],
            folding.moving,
            folding.classes,
            moments=self._moments(folded, progress),
            settings=self.problem.settings,
            progress=progress,
        )

    def _moments(
        self, folded: Sequence[FoldedNorms], progress: Progress
    ) -> dict[str, Tensor] | None:
        """Return what the streams of both bases do on the data, if they are matched by that."""
        if self.code is None or self.request.search.method != ACTIVATIONS:
            return None
        batches = learned_batches(self.request, batches_of(self.code, self.machine))
        return measure_streams(self.problem, self.code, folded[:2], batches, progress).between(0, 1)


def plan_rotation_way(
    models: ThreeModels, fates: TensorFates, request: TransportRequest
) -> RotationWay:
    """Return how orthogonal maps will be found; nothing is read but headers, and tied heads.

    models: the tuned one, its origin, the target. Raises UsageError where permutations are all
    there is, or the models have not the same tensors.
    """
    check_rotating(request, methods=(*METHODS, ACTIVATIONS))
    tell_unsearched(request)
    refuse_replaced(fates, models[0], models[1])
    runs = request.search.method == ACTIVATIONS
    held = HeldModels("--method activations", run=2) if runs else None
    tuned, origin, target = models
    problem = plan_rotations([target, origin, tuned], request, held=held, tie=request.tie)
    code = plan_rotation_code(problem, request) if runs else None
    return RotationWay(problem, code, request)
