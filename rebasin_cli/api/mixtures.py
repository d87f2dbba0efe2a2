"""Models computed from other models: merge and lerp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat, TypeAlias, overload

from torch import Tensor

from rebasin_cli.alignment.problem import MatchingProblem
from rebasin_cli.api.keywords import Groups, groups_of, is_number, numbers
from rebasin_cli.api.merging_on_data import MergedModels, merge_on_data
from rebasin_cli.api.pairs import PairMatching, match_open_models
from rebasin_cli.api.running import library_verb, model_list
from rebasin_cli.api.specs import MatchOptions, NetworkLike, SpecLike, SpecSource, matching_problem
from rebasin_cli.api.tensors_in import Model, ModelInMemory, OutputForm, in_given_form, open_all
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.checks import check_way
from rebasin_cli.commands.merge.combining import Combining
from rebasin_cli.commands.merge.command import RUNNING, MergeRequest
from rebasin_cli.commands.merge.common_frame import bring_into_frame
from rebasin_cli.commands.merge.plan import plan_mean
from rebasin_cli.commands.merge.run import merge_facts
from rebasin_cli.errors import UsageError
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import check_fit
from rebasin_cli.files.part_sources import finite_model, finite_part
from rebasin_cli.files.provenance import basin_of, one_basin, provenance
from rebasin_cli.merging.mean import MODES
from rebasin_cli.merging.sources import Between
from rebasin_cli.merging.weights import check_alphas
from rebasin_cli.merging.whole_numbers import check_equal_where_no_mean
from rebasin_cli.options.machine import plan_machine
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import silent
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import TensorSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rebasin_cli.api.keywords import Options

BatchesLike: TypeAlias = "Callable[[], Iterable[object]] | Iterable[object] | str | None"


class MergeOptions(MatchOptions, total=False):
    """Keywords of `merge` whose types do not depend on what its models are."""

    weights: Sequence[float]
    strategy: str | None
    sync_method: str | None
    ref: int | None
    combine: str
    density: float | None
    scale: float | None
    tensor_weights: Mapping[str, Sequence[float]] | None
    width: float
    data: BatchesLike
    batches: int | None


@overload
def merge(  # type: ignore[overload-overlap]  # what is in memory alone comes back as that
    models: Iterable[ModelInMemory],
    *,
    base: ModelInMemory | None = None,
    **options: Unpack[MergeOptions],
) -> dict[str, Tensor]: ...


@overload
def merge(
    models: Iterable[Model],
    *,
    base: Model | None = None,
    **options: Unpack[MergeOptions],
) -> Checkpoint: ...


@library_verb
def merge(
    models: Iterable[Model],
    *,
    weights: Sequence[float] = (),
    strategy: str | None = None,
    sync_method: str | None = None,
    ref: int | None = None,
    base: Model | None = None,
    combine: str = "mean",
    density: float | None = None,
    scale: float | None = None,
    tensor_weights: Mapping[str, Sequence[float]] | None = None,
    width: float = 1.0,
    data: BatchesLike = None,
    batches: int | None = None,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> dict[str, Tensor] | Checkpoint:
    """Return the weighted mean of models that are aligned first, or another combination of them.

    weights: one for each model, default: equal ones. The result is divided by their sum.
    tensor_weights: glob over tensor names -> weights, which replace `weights` there.
    strategy: how the models are aligned. `many`: MergeMany of Git Re-Basin (arXiv 2209.04836,
    Algorithm 2), the default up to 8 models. `star`: each to the reference, the default beyond.
    `universe`: C2M3 (arXiv 2405.17897). Also `sync` and `sync-sweeps`. `none`: not at all.
    ref: the number of the reference, from 0; the mean has its order of units. None: the base if
    there is one, else the first model.
    base: the model that the others were fine-tuned from. They are aligned to it (the default
    strategy is then `star`), and their differences to it are combined.
    combine, density, scale, sync_method: see `rebasin merge --help`. All other arguments are
    those of `match`. Raises what `match` raises.

    The methods `zipit` (arXiv 2305.03053), `cca` (2407.05385) and `least-squares` (2407.02447;
    `width`: make hidden layers so many times as wide) run `model`, or a module among the models, on
    the first `batches` of `data`: batches of inputs, or a function that yields them. Their results
    compute what none of the models does.

    If all models are state dicts and modules, the result is a state dict. If there is a path among
    them, it is a checkpoint that is computed as it is read, one tensor at a time: until then the
    models must not change. Names, dtypes, and tensors that have no mean, are those of the first.
    """
    models = model_list(models)
    given = [*models, *([] if base is None else [base])]
    if len(given) < 2:
        raise UsageError(f"merge takes at least two models: there are {len(given)}")
    groups = groups_of(SpecSource(spec).named, options)
    found = open_all(given, groups.selection)
    combining = Combining(combine, None if base is None else Path("the base"), density, scale)
    request = replace(
        _request(len(models), ref, groups, combining),
        strategy=strategy,
        sync_method=sync_method,
        weights=numbers("weights", weights),
        tensor_weights=[(n, numbers(n, w)) for n, w in (tensor_weights or {}).items()],
        width=width,
    )
    check_way(request)
    source = SpecSource(spec, model, inputs)
    if groups.search.method in RUNNING:
        return merge_on_data(request, MergedModels(found, given, data, batches), source, groups)
    if data is not None:
        raise UsageError("data is for the methods that run models", hint=" or ".join(RUNNING))
    plan = plan_mean(request, _problem(found, given, groups, source, strategy))
    together = bring_into_frame(plan, silent)
    facts = partial(merge_facts, plan, together)
    return in_given_form(
        given, together.mean, OutputForm(plan.models, facts, groups.selection, together.parts)
    )


def _request(count: int, ref: int | None, groups: Groups, combining: Combining) -> MergeRequest:
    if ref is not None and not 0 <= ref < count:
        raise UsageError(f"ref {ref}: there are {count} models, the first is 0")
    paths = [Path(f"model {number}") for number in range(1, count + 1)]
    return MergeRequest(
        models=paths,
        reference=None if ref is None else paths[ref],
        combining=combining,
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
    matched = matching_problem(found, given, source, groups, done="averaged")
    return MatchingProblem(matched.models, matched.machine, matched.choice)


@overload
def lerp(  # type: ignore[overload-overlap]  # as of merge
    a: ModelInMemory,
    b: ModelInMemory,
    alpha: Iterable[SupportsFloat],
    *,
    mode: str = "linear",
    align: bool = False,
    **options: Unpack[MatchOptions],
) -> list[dict[str, Tensor]]: ...


@overload
def lerp(  # type: ignore[overload-overlap]  # as of merge
    a: ModelInMemory,
    b: ModelInMemory,
    alpha: SupportsFloat,
    *,
    mode: str = "linear",
    align: bool = False,
    **options: Unpack[MatchOptions],
) -> dict[str, Tensor]: ...


@overload
def lerp(
    a: Model,
    b: Model,
    alpha: Iterable[SupportsFloat],
    *,
    mode: str = "linear",
    align: bool = False,
    **options: Unpack[MatchOptions],
) -> list[Checkpoint]: ...


@overload
def lerp(
    a: Model,
    b: Model,
    alpha: SupportsFloat,
    *,
    mode: str = "linear",
    align: bool = False,
    **options: Unpack[MatchOptions],
) -> Checkpoint: ...


@library_verb
def lerp(
    a: Model,
    b: Model,
    alpha: SupportsFloat | Iterable[SupportsFloat],
    *,
    mode: str = "linear",
    align: bool = False,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> dict[str, Tensor] | Checkpoint | Sequence[dict[str, Tensor] | Checkpoint]:
    """Return (1 - alpha) a + alpha b; for several alphas a list of these.

    mode: `linear`, or `slerp`: along the arc between both values of each tensor. align: permute b
    to match a first; spec, model, inputs and options are those of `match`. The result is a at alpha
    0 and b at alpha 1, bit for bit, in the dtypes of a; its form is that of the results of `merge`.
    Raises what `match` raises.
    """
    if mode not in MODES:
        raise UsageError(f"no mode is called {mode!r}", hint=" or ".join(MODES))
    single, alphas = is_number(alpha), numbers("alpha", alpha)
    check_alphas(alphas, named="alpha")
    groups = groups_of(SpecSource(spec).named, options)
    done = None if set(alphas) <= {0.0, 1.0} else "averaged"  # the ends are the models themselves
    line = _line((a, b), groups, SpecSource(spec, model, inputs), aligned=align, done=done)
    made = [line.at((a, b), one, mode) for one in alphas]
    return made[0] if single else made


@dataclass(frozen=True)
class _LineBetween:
    """The way from one model to another. found: how the second was aligned; None: as it is."""

    models: tuple[Checkpoint, Checkpoint]
    groups: Groups
    found: PairMatching | None
    inside: bool  # whether a place other than the ends is asked for

    def at(
        self, given: tuple[Model, Model], alpha: float, mode: str
    ) -> dict[str, Tensor] | Checkpoint:
        """Return what lies at a place, in the form of the models as they were given."""
        first, other = self.models
        selection, bound = self.groups.selection, self.found.bound.tensors if self.found else ()

        def between(a: TensorSource, b: TensorSource) -> Between:
            moved = Permuted(b, bound, self.found.permutations) if self.found else b
            if self.inside:
                check_equal_where_no_mean((a, moved), (1, 1), selection.selects)
            return Between((a, moved), alpha, mode, selection.selects)

        def part(key: str) -> Between:
            return between(
                finite_part(first, key, bound, selection),
                finite_part(other, key, bound, selection),
            )

        form = OutputForm(self.models, partial(self._facts, alpha, mode), selection, part)
        return in_given_form(
            given, between(finite_model(first, selection), finite_model(other, selection)), form
        )

    def _facts(self, alpha: float, mode: str) -> dict[str, str]:
        choice = self.found.choice if self.found else None
        near = (choice is not None and choice.whole) or one_basin(self.models)
        return provenance(
            "lerp",
            self.models,
            basin=basin_of(self.models[0]) if near else None,
            spec=choice.name if choice else None,
            seed=self.groups.computing.seed,
            alpha=alpha,
            mode=mode,
        )


def _line(
    given: tuple[Model, Model],
    groups: Groups,
    source: SpecSource,
    *,
    aligned: bool,
    done: str | None,
) -> _LineBetween:
    """Return the way between two models, the second aligned if that is asked for."""
    first, other = open_all(given, groups.selection)
    if done:
        refuse_codes([first, other], groups.selection, done=done)
    if not aligned:
        check_fit(first, [other], groups.selection, groups.tracing)
    found = match_open_models((first, other), given, source, groups) if aligned else None
    return _LineBetween((first, other), groups, found, done is not None)
