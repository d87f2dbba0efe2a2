"""Models made of others: merge and lerp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_cli.alignment.problem import MatchingProblem
from rebasin_cli.api.keywords import Groups, groups_of
from rebasin_cli.api.pairs import match_opened
from rebasin_cli.api.specs import Network, SpecLike, SpecSource, problem
from rebasin_cli.api.tensors_in import (
    ComputedCheckpoint,
    Model,
    OutputForm,
    in_memory,
    opened,
    state_dict_like,
)
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.plan import plan_mean
from rebasin_cli.commands.merge.request import MergeRequest
from rebasin_cli.commands.merge.run import brought_together, merge_facts
from rebasin_cli.errors import UsageError
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import check_fit
from rebasin_cli.files.part_sources import finite
from rebasin_cli.files.provenance import provenance
from rebasin_cli.merging.mean import MODES
from rebasin_cli.merging.sources import Between
from rebasin_cli.merging.weights import check_alphas
from rebasin_cli.merging.whole import check_equal_where_no_mean
from rebasin_cli.options.machine import plan_machine
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import silent
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import TensorSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rebasin_cli.api.keywords import Options


def merge(
    models: Sequence[Model],
    *,
    weights: Sequence[float] = (),
    strategy: str | None = None,
    ref: int = 0,
    spec: SpecLike = None,
    model: Network | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> Any:
    """Return the weighted mean of models, aligned to one another before.

    weights: one for each; none: equal. The result is divided by their sum. strategy: `many`
    (MergeMany of Git Re-Basin, Algorithm 2; the default up to 8), `universe` (C2M3), `star` (each
    to the reference; the default beyond), `sync`, or `none`: averaged as they are. ref: the number
    of the reference, whose order of units the mean has. The others are as of `match`.

    State dicts and modules in, a state dict out; with a path among them a checkpoint that is
    computed as it is read, one tensor at a time.
    """
    groups = groups_of(SpecSource(spec).named, options)
    found = opened(models, groups.selection)
    request = _request(len(found), list(weights), strategy, ref, groups)
    source = SpecSource(spec, model, inputs)
    plan = plan_mean(request, _problem(found, models, groups, source, strategy))
    together = brought_together(plan, silent)
    form = OutputForm(plan.models[0], lambda: merge_facts(plan, together), together.parts)
    return _result(models, together.mean, form)


def _request(
    count: int, weights: Sequence[float], strategy: str | None, ref: int, groups: Groups
) -> MergeRequest:
    if not 0 <= ref < count:
        raise UsageError(f"ref {ref}: there are {count} models, the first is 0")
    paths = [Path(f"model {number}") for number in range(1, count + 1)]
    return MergeRequest(
        models=paths,
        strategy=strategy,
        weights=weights,
        reference=paths[ref],
        selection=groups.selection,
        computing=replace(groups.computing, check=False),
        search=groups.search,
    )


def _problem(
    found: Sequence[Checkpoint],
    given: Sequence[Model],
    groups: Groups,
    source: SpecSource,
    strategy: str | None,
) -> MatchingProblem[Choice | None]:
    """Return models to merge; what is not aligned needs no spec."""
    if strategy == "none":
        refuse_codes(found, groups.selection, done="averaged")
        check_fit(found[0], found[1:], groups.selection, groups.tracing)
        machine = plan_machine(groups.computing, groups.search)
        return MatchingProblem(tuple(found), machine, None)
    matched = problem(found, given, source, groups, done="averaged")
    return MatchingProblem(matched.models, matched.machine, matched.choice)


def lerp(
    a: Model,
    b: Model,
    alpha: float | Sequence[float],
    *,
    mode: str = "linear",
    align: bool = False,
    spec: SpecLike = None,
    model: Network | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> Any:
    """Return (1 - alpha) a + alpha b; of several alphas a list.

    mode: `linear`, or `slerp`: along the arc of each tensor. align: bring b next to a first; spec,
    model, inputs and options are those of `match`. Alpha 0 is a and 1 is b, bit for bit. Results
    are as of `merge`.
    """
    if mode not in MODES:
        raise UsageError(f"no mode is called {mode!r}", hint=" or ".join(MODES))
    single = isinstance(alpha, int | float)
    alphas = [float(alpha)] if isinstance(alpha, int | float) else [float(one) for one in alpha]
    check_alphas(alphas)
    groups = groups_of(SpecSource(spec).named, options)
    done = None if set(alphas) <= {0.0, 1.0} else "averaged"  # the ends are the models themselves
    source = SpecSource(spec, model, inputs)
    first, other, moved = _ends((a, b), groups, source, aligned=align, done=done)
    selects = groups.selection.selects
    ends = finite(first, groups.selection), moved
    if done:
        check_equal_where_no_mean(ends, (1, 1), selects)
    made = []
    for one in alphas:
        facts = partial(provenance, "lerp", [first, other], basin=None, alpha=one, mode=mode)
        between = Between(ends, one, mode, selects)
        made.append(_result((a, b), between, OutputForm(first, facts)))
    return made[0] if single else made


def _ends(
    given: tuple[Model, Model],
    groups: Groups,
    source: SpecSource,
    *,
    aligned: bool,
    done: str | None,
) -> tuple[Checkpoint, Checkpoint, TensorSource]:
    """Return the two models, and the second as it is interpolated with."""
    first, other = opened(given, groups.selection)
    if done:
        refuse_codes([first, other], groups.selection, done=done)
    if not aligned:
        check_fit(first, [other], groups.selection, groups.tracing)
        return first, other, finite(other, groups.selection)
    found = match_opened((first, other), given, source, groups)
    moved = Permuted(finite(other, groups.selection), found.bound.tensors, found.permutations)
    return first, other, moved


def _result(
    given: Sequence[Model], source: TensorSource, form: OutputForm
) -> Mapping[str, Any] | ComputedCheckpoint:
    """Return a mixture in the form of the models: with a path among them it is computed late."""
    if in_memory(given):
        return state_dict_like(given[0], source, form.like)
    return ComputedCheckpoint(source, form)
