"""The plan of `rebasin merge --method least-squares`: which layers are solved, and how wide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.checks import check_own_units
from rebasin_cli.commands.merge.command import LEAST_SQUARES, MergeRequest
from rebasin_cli.commands.merge.data_methods import as_permuting, code_of
from rebasin_cli.commands.merge.least_squares.fitting import MergedLayer, check_sums_room
from rebasin_cli.commands.merge.least_squares.growable import growable_groups
from rebasin_cli.commands.merge.least_squares.solvable_layers import (
    SolvableLayers,
    solvable_layers,
)
from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides, sides_of
from rebasin_cli.commands.merge.linear_maps.readers import Reader
from rebasin_cli.commands.merge.plan import (
    MeanPlan,
    MergePlan,
    correction_for,
    plan_merge,
)
from rebasin_cli.errors import UsageError
from rebasin_cli.models.subject import bare_model
from rebasin_cli.network.network import UserCode
from rebasin_cli.renormalization.plan import CorrectionPlan


@dataclass(frozen=True)
class WiderGroups:
    """Which groups become wider. apart: how many units of each are not merged.

    readers: where its units are seen. narrow: groups that stay as they are, with the reason of
    each. sides: what each axis of a tensor does with units.
    """

    apart: Mapping[str, int] = field(default_factory=dict)
    readers: Mapping[str, Reader] = field(default_factory=dict)
    narrow: Mapping[str, str] = field(default_factory=dict)
    sides: Sides = field(default_factory=dict)


@dataclass(frozen=True)
class SolvedMeanPlan:
    """All that merging models by least squares needs.

    merge: of the models, aligned by permutations. solvable: the layers whose weights are solved,
    and why those of others are averaged.
    """

    merge: MeanPlan
    code: UserCode
    solvable: SolvableLayers
    growth: WiderGroups
    request: MergeRequest
    correction: CorrectionPlan | None = None

    @property
    def shares(self) -> list[float]:
        """The weights of the models, made to add up to 1."""
        weights = self.merge.mixture.weights.models
        return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True)
class LeastSquaresPlan(SolvedMeanPlan):
    """All that `run_least_squares` needs."""

    merge: MergePlan

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            **self.merge.describe(),
            "method": LEAST_SQUARES,
            "model": self.request.tracing.target,
            "data": self.request.data.data,
            "solved": [layer.name for layer in self.solvable.layers],
            "averaged": dict(self.solvable.others),
            "width": self.request.width,
            "apart": dict(self.growth.apart),
            "narrow": dict(self.growth.narrow),
            **({"renormalize": self.correction.describe()} if self.correction else {}),
        }


def plan_least_squares(request: MergeRequest) -> LeastSquaresPlan:
    """Return what merging by least squares will do; the model is built, without memory.

    renormalize: of the methods, `reset`. Raises UsageError as `plan_merge` does, without a model
    and data, and where there is nothing to solve or to widen.
    """
    check_solved(request)
    merge = plan_merge(as_permuting(request))
    mean = plan_solved_mean(request, merge, partial(code_of, request))
    if request.width > 1 and merge.target.layout.folder is not None:
        raise UsageError(
            "the config.json of a folder says how wide layers are, and would be wrong",
            hint="-o FILE.safetensors writes the weights alone",
        )
    return LeastSquaresPlan(**{**vars(mean), "merge": merge})


def plan_solved_mean(
    request: MergeRequest, merge: MeanPlan, code_for: Callable[[Checkpoint], UserCode]
) -> SolvedMeanPlan:
    """Return how models that are open are merged by least squares. code_for: what one of them runs.

    Raises UsageError where there is nothing to solve or to widen.
    """
    first = merge.models[merge.reference]
    code = code_for(first)
    model = bare_model(code.network.subject)
    solvable = solvable_layers(
        model, code.network.windows, lambda name: _averaged(request, first, name)
    )
    if not solvable.layers:
        raise UsageError(
            "there is no layer whose weights could be solved",
            detail="\n".join(f"{name}: {why}" for name, why in list(solvable.others.items())[:10]),
            hint="without --method they are averaged",
        )
    layers = [MergedLayer(layer.name) for layer in solvable.layers]
    check_sums_room(layers, model, merge.machine, models=len(request.models))
    growth = _growth(merge, code, model, request) if request.width > 1 else WiderGroups()
    correction = correction_for(request, first, merge.choice)
    return SolvedMeanPlan(merge, code, solvable, growth, request, correction)


def _averaged(request: MergeRequest, first: Checkpoint, name: str) -> bool:
    """Return whether a tensor is averaged, as real numbers."""
    return request.selection.selects(name) and first.info(name).dtype.is_floating_point


def check_solved(request: MergeRequest) -> None:
    """Raise UsageError for what no reading of headers is needed to see."""
    check_own_units(request)
    if request.width > 1:
        _check_wider(request)


def _check_wider(request: MergeRequest) -> None:
    if len(request.models) > 2:
        raise UsageError(
            f"--width is for two models, not {len(request.models)}", hint="leave out --width"
        )
    if request.weights and min(request.weights) <= 0:
        raise UsageError("with --width every model needs a weight above zero")
    if request.output.max_shard_size:
        raise UsageError("--max-shard-size does not go with --width")


def _growth(
    merge: MeanPlan, code: UserCode, model: nn.Module, request: MergeRequest
) -> WiderGroups:
    """Return which groups become wider. Raises UsageError if none can."""
    if merge.choice is None:
        raise UsageError(
            "without a spec nothing says which units belong together", hint="leave out --strategy"
        )
    sides = sides_of(model, code.network.windows)
    first = merge.models[merge.reference]
    found = growable_groups(
        merge.choice,
        sides,
        model,
        code.network.windows,
        lambda name: _averaged(request, first, name),
    )
    if not found.readers:
        raise no_growth(found.others)
    sizes = {name: group.size for name, group in merge.choice.bound.groups.items()}
    apart = {name: round((request.width - 1) * sizes[name]) for name in found.readers}
    return WiderGroups(apart, found.readers, found.others, sides)


def no_growth(reasons: Mapping[str, str]) -> UsageError:
    """Return the error for a model of which no layer can become wider."""
    return UsageError(
        "no group of units can become wider",
        detail="\n".join(f"{name}: {why}" for name, why in list(reasons.items())[:10]),
        hint="leave out --width",
    )
