"""Two models of one architecture: match, align, verify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, overload

from torch import Tensor

from rebasin_cli.alignment.match import match_models
from rebasin_cli.api.keywords import Groups, groups_of
from rebasin_cli.api.running import library_verb, running_models
from rebasin_cli.api.specs import NetworkLike, SpecLike, SpecSource, matching_problem
from rebasin_cli.api.tensors_in import (
    Model,
    ModelInMemory,
    OutputForm,
    in_given_form,
    open_all,
    open_beside,
)
from rebasin_cli.api.widths import as_wide_as
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.verify.command import VerifyRequest
from rebasin_cli.commands.verify.plan import Verified, VerifyPlan
from rebasin_cli.commands.verify.run import run_verify
from rebasin_cli.files.coded import moves_together, refuse_torn_codes
from rebasin_cli.files.inputs import check_moves_as
from rebasin_cli.files.part_sources import moved_parts
from rebasin_cli.files.provenance import basin_of, provenance
from rebasin_cli.files.saved.permutation_file import read_permutations
from rebasin_cli.matching.problem.result import Change, GroupChange, Matching, Status
from rebasin_cli.permutation import Permutations
from rebasin_cli.permutation import inverse as inverse_of
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import silent
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec_choice.choice import Choice

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rebasin_cli.api.keywords import Options
    from rebasin_cli.api.specs import MatchOptions
    from rebasin_cli.tensors import TensorSource


@dataclass(frozen=True, eq=False)
class PairMatching:
    """The permutations that match a model to a reference, and all that is needed to apply them.

    found: the result of the search. choice: the spec, bound to both models. asked: the options
    that `match` was called with.
    """

    found: Matching
    choice: Choice
    reference: Checkpoint
    other: Checkpoint
    asked: Groups

    @property
    def permutations(self) -> Permutations:
        """By group: unit i of the result is unit `index[i]` of the model."""
        return MappingProxyType(self.found.permutations)

    @property
    def spec(self) -> Spec:
        """The spec that the models were matched under."""
        return self.choice.bound.spec

    @property
    def bound(self) -> BoundSpec:
        """The spec with the sizes of the models."""
        return self.choice.bound

    @property
    def status(self) -> Status:
        """How the search ended; its value is a sentence for people."""
        return self.found.status

    @property
    def objective(self) -> Change:
        """<reference, model> over the tensors that take part, before and after."""
        return self.found.objective

    @property
    def distance(self) -> Change:
        """|reference - model| over the same tensors, before and after."""
        return self.found.distance

    @property
    def history(self) -> tuple[float, ...]:
        """The objective where the search began that won, and after each step of it."""
        return self.found.history

    @property
    def groups(self) -> tuple[GroupChange, ...]:
        """What became of each group."""
        return self.found.groups

    def __repr__(self) -> str:
        moved = sum(group.moved > 0 for group in self.groups)
        return (
            f"<PairMatching: {self.status.value}; distance {self.distance.before:.4g} -> "
            f"{self.distance.after:.4g}, {moved} of {len(self.groups)} groups moved, "
            f"spec {self.choice.name}>"
        )

    @overload
    def apply(self, model: ModelInMemory, *, inverse: bool = False) -> dict[str, Tensor]: ...

    @overload
    def apply(
        self, model: TensorSource | str | PathLike[str], *, inverse: bool = False
    ) -> Checkpoint: ...

    @library_verb
    def apply(self, model: Model, *, inverse: bool = False) -> dict[str, Tensor] | Checkpoint:
        """Return a model with its units in the order of the reference. Its function stays the same.

        A state dict or a module gives a new state dict. Anything else, such as a path, gives a
        checkpoint that is permuted as it is read. inverse: undo the permutation. The model need not
        be the one that was matched: it may be its moving average, or masks of its weights. Raises
        CheckpointError if it has other tensors.
        """
        selection = self.asked.selection
        seen = open_beside(self.reference, model, selection)
        check_moves_as(self.reference, seen, selection, self.asked.tracing)
        refuse_torn_codes([seen], moves_together(self.bound, self.choice.movable))
        permutations = inverse_of(self.permutations) if inverse else self.permutations
        parts = moved_parts(seen, self.bound.tensors, permutations)
        form = OutputForm([seen], partial(self._facts, seen), selection, parts)
        return in_given_form([model], Permuted(seen, self.bound.tensors, permutations), form)

    def _facts(self, seen: Checkpoint) -> Mapping[str, str]:
        return provenance(
            "align",
            [self.reference, seen],
            basin=basin_of(self.reference) if self.choice.whole else None,
            spec=self.choice.name,
            seed=self.asked.computing.seed,
        )


@library_verb
def match(
    a: Model,
    b: Model,
    *,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> PairMatching:
    """Return the permutations of the units of `b` that bring it as near to `a` as can be found.

    a, b: two models of one architecture, each a state dict, a module, a tensor source, a checkpoint
    or a path.
    spec: which axes hold which units: a `Spec`, the name of a bundled one, or a file.
    model, inputs: instead of a spec, a network to trace it from, and what it is called with; see
    `trace`. If neither is given, the bundled spec that fits is used; if none fits, the class that a
    config.json beside the files names is traced, or a module that `a` or `b` is.
    options: see `Options`. The same seed gives the same permutations.

    The method is weight matching of Git Re-Basin (arXiv 2209.04836, section 3.2), unless `method`
    names another. Raises CheckpointError for models that differ in their tensors, SpecError for a
    spec that does not fit, NotFiniteError for NaN or infinity, UsageError for options that cannot
    be, and MachineError if memory is short.
    """
    groups = groups_of(SpecSource(spec).named, options)
    models = open_all([a, b], groups.selection)
    return match_open_models(
        (models[0], models[1]), (a, b), SpecSource(spec, model, inputs), groups
    )


def match_open_models(
    models: tuple[Checkpoint, Checkpoint],
    given: tuple[Model, Model],
    source: SpecSource,
    groups: Groups,
) -> PairMatching:
    """Return the matching of two models that are open; given: as they came."""
    start = groups.search.start_file
    search = replace(groups.search, start=None) if start else groups.search
    found = matching_problem(models, given, source, replace(groups, search=search))
    reference, other = found.models
    refuse_torn_codes([other], moves_together(found.choice.bound, found.choice.movable))
    initial = read_permutations(start, reference).permutations if start else None
    matching = match_models(
        reference, other, found.choice, found.machine, search, initial=initial, progress=silent
    )
    return PairMatching(matching, found.choice, reference, other, groups)


@overload
def align(
    a: Model, b: ModelInMemory, *, widen: bool = False, **options: Unpack[MatchOptions]
) -> dict[str, Tensor]: ...


@overload
def align(
    a: Model,
    b: TensorSource | str | PathLike[str],
    *,
    widen: bool = False,
    **options: Unpack[MatchOptions],
) -> Checkpoint: ...


@library_verb
def align(
    a: Model,
    b: Model,
    *,
    widen: bool = False,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> dict[str, Tensor] | Checkpoint:
    """Return `b` with its units in the order of those of `a`: `match(a, b).apply(b)`.

    widen: `b` may be narrower than `a`: it is first given units that do nothing. If the spec does
    not show that they do nothing, call `widen(b, a, trust=True)` and align the result. The other
    arguments are those of `match`, the result is that of `PairMatching.apply`. Raises what `match`
    raises.
    """
    source = SpecSource(spec, model, inputs)
    other: Model = as_wide_as(a, b, source, groups_of(source.named, options)) if widen else b
    found = match(a, other, spec=spec, model=model, inputs=inputs, **options)
    return found.apply(other)


@library_verb
def verify(
    a: Model,
    b: Model,
    *,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> Verified:
    """Return whether `b` is exactly `a` with its units reordered.

    Every tensor is compared bit by bit. The answer can be used as a bool, and says what was found.
    The arguments are those of `match`. Raises what `match` raises.
    """
    groups = groups_of(SpecSource(spec).named, options)
    models = open_all([a, b], groups.selection)
    found = matching_problem(models, (a, b), SpecSource(spec, model, inputs), groups)
    request = VerifyRequest(
        a=found.models[0].path,
        b=found.models[1].path,
        selection=groups.selection,
        computing=groups.computing,
        search=groups.search,
    )
    first, second = found.models
    plan = VerifyPlan(first, second, found.choice, None, found.machine, request)
    with running_models():
        (verified,) = run_verify(plan, silent)
    return verified
