"""The plan of `rebasin merge --method zipit|cca`: which groups are merged by linear maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.checks import check_own_units
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.commands.merge.data_methods import as_permuting, code_of
from rebasin_cli.commands.merge.linear_maps.axis_roles import Sides, mappable, sides_of
from rebasin_cli.commands.merge.linear_maps.readers import Reader, readers_of
from rebasin_cli.commands.merge.plan import (
    MeanPlan,
    MergePlan,
    correction_for,
    plan_merge,
)
from rebasin_cli.commands.merge.saved_parents import check_alike
from rebasin_cli.errors import UsageError
from rebasin_cli.files.places import OutputPlace, check_distinct, files_of, plan_place
from rebasin_cli.files.targets import check_ending
from rebasin_cli.models.subject import bare_model
from rebasin_cli.network.network import UserCode
from rebasin_cli.renormalization.plan import CorrectionPlan
from rebasin_cli.spec_choice.choice import Choice

UNREAD = "no layer of a known kind reads its units"


@dataclass(frozen=True)
class LinearMeanPlan:
    """All that merging models by linear maps needs.

    merge: of the models, aligned by permutations. method: a key of LINEAR. readers: where the
    units of each group that is mapped are seen. others: groups that are only permuted, with the
    reason of each. options: those of the user; those of `merge` say how to align.
    """

    merge: MeanPlan
    choice: Choice
    code: UserCode
    method: str
    sides: Sides
    readers: Mapping[str, Reader]
    others: Mapping[str, str]
    request: MergeRequest
    correction: CorrectionPlan | None = None


@dataclass(frozen=True)
class LinearMapsPlan(LinearMeanPlan):
    """All that `run_linear_maps` needs. maps: where the maps go, if they are saved."""

    merge: MergePlan
    maps: OutputPlace | None = None

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            **self.merge.describe(),
            "method": self.method,
            "model": self.request.tracing.target,
            "data": self.request.data.data,
            "mapped": list(self.readers),
            "permuted": dict(self.others),
            "maps": str(self.maps.path) if self.maps else None,
            **({"renormalize": self.correction.describe()} if self.correction else {}),
        }


def plan_linear_maps(request: MergeRequest) -> LinearMapsPlan:
    """Return what merging hidden units by linear maps will do; the model is built, without memory.

    renormalize: of the methods, `reset`. Raises UsageError as `plan_merge` does, without a model
    and data, and where no group can be mapped.
    """
    check_linear(request)
    merge = plan_merge(as_permuting(request))
    mean = plan_linear_mean(request, merge, partial(code_of, request))
    return LinearMapsPlan(**{**vars(mean), "merge": merge}, maps=plan_maps(merge, request))


def plan_linear_mean(
    request: MergeRequest, merge: MeanPlan, code_for: Callable[[Checkpoint], UserCode]
) -> LinearMeanPlan:
    """Return how models that are open are merged by linear maps. code_for: what one of them runs.

    Raises UsageError for models that are not aligned, and where no group can be mapped.
    """
    method = request.search.method
    if merge.choice is None:
        raise UsageError(f"{method} starts from aligned models", hint="leave out --strategy none")
    first = merge.models[merge.reference]
    code = code_for(first)
    sides = sides_of(bare_model(code.network.subject), code.network.windows)
    readers, others = _groups(merge.choice, sides)
    if not readers:
        raise UsageError(
            f"there is no group of units that {method} could map",
            detail="\n".join(f"{name}: {why}" for name, why in list(others.items())[:10]),
            hint="without --method they are aligned by permutations",
        )
    correction = correction_for(request, first, merge.choice)
    return LinearMeanPlan(
        merge, merge.choice, code, method, sides, readers, others, request, correction
    )


def plan_maps(merge: MergePlan, request: MergeRequest) -> OutputPlace | None:
    """Return where the maps go, if they are to be saved."""
    if request.save_maps is None:
        return None
    check_alike(merge.overlaps, "--save-maps")
    check_ending(request.save_maps)
    check_distinct([merge.target.path, request.save_maps])
    inputs = [file for model in merge.models for file in files_of(model)]
    return plan_place(request.save_maps, request.output, others=inputs)


def check_linear(request: MergeRequest) -> None:
    """Raise UsageError for what no reading of headers is needed to see."""
    method, models = request.search.method, len(request.models)
    check_own_units(request)
    if method == "cca" and models > 2:
        raise UsageError(f"cca merges two models, not {models}", hint="--method zipit")
    if method == "zipit" and len(set(request.weights)) > 1:
        raise UsageError(
            "zipit merges all units alike, and takes no weights",
            hint="leave out --weights, or --method cca",
        )


def _groups(choice: Choice, sides: Sides) -> tuple[dict[str, Reader], dict[str, str]]:
    """Return the readers of the groups that can be mapped, and why the others cannot."""
    bound, movable = choice.bound, choice.movable
    free = [group for group in bound.groups.values() if group.root in movable and not group.fixed]
    found = mappable(free, bound.tensors, sides)
    readers = readers_of(found.groups, bound.tensors, sides)
    unread = {name: UNREAD for name in found.groups if name not in readers}
    return {name: readers[name] for name in found.groups if name in readers}, {
        **found.others,
        **unread,
    }
