"""Making one candidate after another of a pair of models, and judging its midpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter

from torch import nn

from rebasin_cli.activations.units import UnitMoments
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.by_activations import match_units, observe_units
from rebasin_cli.commands.align.midpoint_judge import (
    MidpointJudge,
    loss_by_answers,
    loss_by_targets,
)
from rebasin_cli.commands.align.orthogonal.run import match_folded
from rebasin_cli.commands.align.run import by_weights
from rebasin_cli.commands.align.select.candidates import Candidate
from rebasin_cli.commands.align.select.data_parts import DataParts
from rebasin_cli.commands.align.select.plan import SelectPlan
from rebasin_cli.errors import RebasinError
from rebasin_cli.folding.folded_models import check_tied
from rebasin_cli.folding.rotation_problem import ORTHOGONAL
from rebasin_cli.matching.diagnostics.unit_figures import compare_units
from rebasin_cli.matching.problem.device_tensors import DeviceTensors, load_models
from rebasin_cli.matching.problem.result import Matching
from rebasin_cli.network.built import build_network
from rebasin_cli.network.scoring.scores import has_targets
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.symmetry.map_sweeps import MapMatching
from rebasin_cli.symmetry.maps import Carried
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import TensorSource

FoundMaps = Matching | MapMatching
MadeCandidate = tuple[FoundMaps, float, tuple[TensorSource, TensorSource]]
"""What was found, the cosine under it, and the two models as they are to be averaged."""


@dataclass(frozen=True)
class TriedCandidate:
    """What became of a candidate.

    found: the maps, and cosine, that of the two models under them, where they were found. loss: of
    the midpoint. failure: why there is none. seconds: that it took.
    """

    candidate: Candidate
    found: FoundMaps | None = None
    cosine: float | None = None
    loss: float | None = None
    failure: RebasinError | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class CandidatePair:
    """The reference and one model, to be aligned in every candidate way and judged on data."""

    plan: SelectPlan
    model: Checkpoint
    data: DataParts
    progress: Progress

    def judged(self) -> Iterator[TriedCandidate]:
        """Yield every candidate with the loss of its midpoint, or the reason why it has none."""
        for number, candidate in enumerate(self.plan.candidates):
            self.progress(f"trying {candidate.name}", number, len(self.plan.candidates))
            began = perf_counter()
            try:
                judged = self._judge(candidate)
            except RebasinError as error:
                judged = TriedCandidate(candidate, failure=error)
            yield replace(judged, seconds=perf_counter() - began)

    def _judge(self, candidate: Candidate) -> TriedCandidate:
        make = self._rotated if candidate.symmetry == ORTHOGONAL else self._permuted
        found, cosine, ends = make(candidate)
        return TriedCandidate(candidate, found, cosine, self.judge.loss(*ends))

    def _permuted(self, candidate: Candidate) -> MadeCandidate:
        plan = self.plan.permuting
        assert plan is not None, "its candidates are permutations"
        (item,) = (item for item in plan.items if item.model is self.model)
        changed = replace(plan.request, search=candidate.search, activations=candidate.activations)
        plan = replace(plan, request=changed)
        if candidate.runs:
            found = match_units(plan, item, self.units, self.progress)
        else:
            found = by_weights(plan, item, self.progress)
        cosine = compare_units(*self._loaded, plan.choice.bound, found.permutations)[1].cosine
        moved = Permuted(self.model, item.tensors, found.permutations)
        return found, cosine.after, (plan.reference, moved)

    def _rotated(self, candidate: Candidate) -> MadeCandidate:
        plan = self.plan.rotating
        assert plan is not None, "its candidates are orthogonal maps"
        plan = replace(plan, request=replace(plan.request, search=candidate.search))
        folding, models = plan.problem.folding, (self.plan.reference, self.model)
        reference, folded = (FoldedNorms(model, folding) for model in models)
        for source, model in zip((reference, folded), models, strict=True):
            check_tied(source, model)
        found = match_folded(plan, (reference, folded), self.data.made_on, self.progress)
        moved = Carried(folded, folding.moving.tensors, found.maps)
        return found, found.cosine.after, (reference, moved)

    @cached_property
    def _loaded(self) -> tuple[DeviceTensors, DeviceTensors]:
        """The two models as they are compared."""
        ends, machine = (self.plan.reference, self.model), self.plan.machine
        labels = str(ends[0].path), str(ends[1].path)
        first, second = load_models(ends, labels, machine.device, machine.max_memory // 2)
        return first, second

    @cached_property
    def units(self) -> Sequence[UnitMoments]:
        """What the units of both models do, where the options say to look: the same for all."""
        plan = self.plan.permuting
        assert plan is not None, "its candidates are permutations"
        (item,) = (item for item in plan.items if item.model is self.model)
        return observe_units(plan, item, self.data.made_on, self.progress)

    @cached_property
    def by_targets(self) -> bool:
        """Whether the data has targets, which midpoints are judged by then."""
        return has_targets(self._network, self.data.judged_on[0])

    @cached_property
    def judge(self) -> MidpointJudge:
        """What says how a midpoint does."""
        plan, batches = self.plan, self.data.judged_on
        network, name = plan.code.network, self.data.made_on.name
        ends = plan.reference, self.model
        return MidpointJudge(
            model=self._network,
            windows=network.windows,
            selects=plan.request.selection.selects,
            ask=loss_by_targets(batches, name)
            if self.by_targets
            else loss_by_answers(network, ends, plan.machine, batches),
            data=name,
            reset=self.data.few,
        )

    @cached_property
    def _network(self) -> nn.Module:
        return build_network(self.plan.code.network, self.plan.reference, self.plan.machine)
