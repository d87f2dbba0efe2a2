"""The barrier: how good the models on the line between two models are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsFloat

import torch

from rebasin_cli.api.keywords import count, groups_of, numbers
from rebasin_cli.api.pairs import PairMatching, match_open_models
from rebasin_cli.api.running import (
    first_batch,
    library_verb,
    module_among,
    running_models,
    user_code,
)
from rebasin_cli.api.specs import NetworkLike, SpecLike, SpecSource, subject_given
from rebasin_cli.api.tensors_in import Model, open_all
from rebasin_cli.commands.barrier.curve import Barrier, sign
from rebasin_cli.commands.barrier.curve import barrier as barrier_of
from rebasin_cli.commands.barrier.plan import STEPS, line_alphas
from rebasin_cli.errors import UsageError
from rebasin_cli.files.inputs import check_fit
from rebasin_cli.files.part_sources import finite_model
from rebasin_cli.merging.sources import Between
from rebasin_cli.models.module_weights import fill
from rebasin_cli.network.built import batches_of, build_network, judge_of
from rebasin_cli.network.network import UserCode, network_of
from rebasin_cli.network.scoring.ensemble import judge_ensemble, why_no_ensemble
from rebasin_cli.network.scoring.scores import Scores
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors import TensorSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rebasin_cli.api.keywords import Options


@dataclass(frozen=True)
class BarrierCurves:
    """The scores of the models on the line between two models.

    naive: alpha -> scores by name, of the line between the models as they are. aligned: the same
    for the line to the aligned second model; None if it was not aligned. matching: the permutations
    that aligned it. ensemble: the scores of the mean of both models' probabilities; None if an
    `evaluate` judges the models, or the data has no targets of its own.
    """

    naive: Mapping[float, Scores]
    aligned: Mapping[float, Scores] | None
    matching: PairMatching | None
    ensemble: Scores | None = None

    def barrier(self, score: str = "loss", *, aligned: bool = True) -> Barrier:
        """Return the barrier of a curve by both of its definitions, see `Barrier`.

        aligned: of the aligned curve, if there is one. Raises KeyError for an unknown score.
        """
        curve = self.aligned if aligned and self.aligned is not None else self.naive
        found = {alpha: scores[score] for alpha, scores in curve.items()}
        return barrier_of(found, sign=sign(score) or 1)


@library_verb
def barrier(
    a: Model,
    b: Model,
    *,
    model: NetworkLike | None = None,
    data: Callable[[], Iterable[object]] | Iterable[object] | str | None = None,
    evaluate: Callable[[Any], object] | str | None = None,
    steps: int = STEPS,
    at: SupportsFloat | Iterable[SupportsFloat] = (),
    align: bool = True,
    batches: int | None = None,
    spec: SpecLike = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> BarrierCurves:
    """Return the scores of the models on the line from `a` to `b`, as they are and aligned.

    model: the network to run: a module (it is copied), a function that builds one, or a TARGET of
    the command line. None: `a` or `b`, if one of them is a module.
    data: batches of inputs or of (inputs, targets), a function that yields them, or FILE.py:NAME.
    evaluate: a function of the module that returns its loss or a dict of numbers. None:
    cross-entropy and accuracy on the data.
    steps: the number of points on the line, both ends included. at: these points instead, and the
    ends. align: also judge the line to the aligned `b`. batches: use only the first so many of
    each pass. The spec to align by is traced from the model, unless `spec` gives one.

    Raises UserCodeError for what the model, the data or the evaluation raise, and what `match`
    raises. The barrier of a curve is that of Frankle et al. 2020 (arXiv 1912.05671, section 2).
    """
    if count("steps", steps, least=0) < 2:
        raise UsageError(f"steps={steps}: both ends count, so that there are two at least")
    if data is None and evaluate is None:
        raise UsageError("nothing says how good a model is", hint="data=batches or evaluate=loss")
    groups = groups_of(SpecSource(spec).named, options)
    network = model if model is not None else module_among([a, b])
    with running_models():
        machine = plan_machine(groups.computing, groups.search)
        first, other = open_all([a, b], groups.selection)
        check_fit(first, [other], groups.selection, groups.tracing)
        runnable = network_of(subject_given(network), first, groups.selection)
        code = user_code(runnable, data, evaluate, batches)
        judged = _JudgedLine(code, machine, line_alphas(steps, numbers("at", at)))
        selects = groups.selection.selects
        ends = finite_model(first, groups.selection), finite_model(other, groups.selection)
        naive, ensemble = judged.scores(ends, selects), judged.ensemble(ends)
        if not align:
            return BarrierCurves(naive, None, None, ensemble)
        traced = None if spec is not None else network
        guided = traced is not None and inputs is None and data is not None
        source = SpecSource(spec, traced, first_batch(code, machine) if guided else inputs)
        found = match_open_models((first, other), (a, b), source, groups)
        moved = Permuted(ends[1], found.bound.tensors, found.permutations)
        return BarrierCurves(naive, judged.scores((ends[0], moved), selects), found, ensemble)


@dataclass(frozen=True)
class _JudgedLine:
    """Places between two models, and how the models there are judged."""

    code: UserCode
    machine: Machine
    alphas: tuple[float, ...]

    def scores(
        self, ends: tuple[TensorSource, TensorSource], selects: Callable[[str], bool]
    ) -> Mapping[float, Scores]:
        """Return the scores at every place; one module takes the weights of all in turn."""
        judge = judge_of(self.code, self.machine)
        module = build_network(self.code.network, ends[0], self.machine)
        found = {}
        for alpha in self.alphas:
            fill(module, Between(ends, alpha, "linear", selects), self.code.network.windows)
            module.eval()  # an evaluation may have trained it
            torch.manual_seed(self.machine.seed)  # and the next one draws the same numbers
            found[alpha] = dict(judge(module))
        return found

    def ensemble(self, ends: tuple[TensorSource, TensorSource]) -> Scores | None:
        """Return the scores of the mean of what both models answer, None if there are none."""
        batches = batches_of(self.code, self.machine)
        models = [build_network(self.code.network, end, self.machine) for end in ends]
        if why_no_ensemble(self.code, batches, models[0]):
            return None
        torch.manual_seed(self.machine.seed)
        return dict(judge_ensemble(models, batches))
