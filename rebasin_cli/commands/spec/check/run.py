"""Carrying out `rebasin spec check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rebasin_cli.commands.spec.check.plan import Checked, CheckPlan, GroupSeen
from rebasin_cli.errors import SpecError
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.progress import Progress
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.library import load_spec
from rebasin_cli.spec_choice.choice import choose_spec


def run_check(plan: CheckPlan, progress: Progress) -> Iterator[Checked]:
    """Yield whether the spec is valid and fits; a spec that does not exist raises instead."""
    try:
        spec = load_spec(plan.spec)
        if plan.model is None:
            yield Checked(plan.spec, None, len(spec.tensors), (), (), None)
            return
        bound = choose_spec(
            [plan.model], replace(plan.request.selection, spec=plan.spec), tracing=Tracing()
        ).bound
    except SpecError as error:
        yield Checked(plan.spec, plan.model.path if plan.model else None, 0, (), (), error)
        return
    yield Checked(
        plan.spec, plan.model.path, len(bound.tensors), _groups(bound), bound.untouched, None
    )


def _groups(bound: BoundSpec) -> tuple[GroupSeen, ...]:
    return tuple(
        GroupSeen(
            group.name,
            group.size,
            group.parents,
            group.fixed,
            tuple(t.members[0] for t in bound.tensors if group.name in t.groups),
        )
        for group in bound.groups.values()
    )
