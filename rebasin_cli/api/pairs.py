"""One model brought next to another: match, align, apply, verify."""

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
from rebasin_cli.api.specs import NetworkLike, SpecLike, SpecSource, problem
from rebasin_cli.api.tensors_in import (
    Model,
    ModelInMemory,
    OutputForm,
    open_all,
    open_beside,
    result,
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
    """The permutations that bring a model next to a reference, and what applying them takes.

    found: what the search says of them. choice: the spec, bound to both. asked: the options.
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
        """Return a model with its units in the order of the reference, its function the same.

        A state dict or a module in, a new state dict out; anything else, such as a path: a
        checkpoint that is permuted as it is read. inverse: undo it. The model may be another than
        the one that was matched, as its moving average, or masks of its weights; raises
        CheckpointError if it has other tensors.
        """
        selection = self.asked.selection
        seen = open_beside(self.reference, model, selection)
        check_moves_as(self.reference, seen, selection, self.asked.tracing)
        refuse_torn_codes([seen], moves_together(self.bound, self.choice.movable))
        permutations = inverse_of(self.permutations) if inverse else self.permutations
        parts = moved_parts(seen, self.bound.tensors, permutations)
        form = OutputForm([seen], partial(self._facts, seen), selection, parts)
        return result([model], Permuted(seen, self.bound.tensors, permutations), form)

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
    """Return the permutations of the units of `b` that bring it next to `a`.

    a, b: state dicts, modules, tensor sources, checkpoints or paths, of one architecture. spec: of
    the language, its name or its file. model, inputs: a network that is traced for the spec, and
    what it is fed, see `trace`. Of none: the bundled spec that fits, else what config.json beside
    a file or a module among the two tells. options: see `Options`. Same seed, same permutations.

    Weight matching of Git Re-Basin (arXiv 2209.04836, section 3.2), or what `method` says. Raises
    CheckpointError for models that differ, SpecError for a spec that does not fit, NotFiniteError,
    UsageError, and MachineError where memory is short.
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
    found = problem(models, given, source, replace(groups, search=search))
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

    widen: `b` may be narrower than `a`, and gets units that do nothing; where a spec does not tell
    that they do, `widen(b, a, trust=True)` makes it as wide before. Other arguments and errors are
    those of `match`, the result is as of `PairMatching.apply`.
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
    """Return whether `b` is exactly `a` with its units reordered; the answer counts as a bool.

    Every tensor is compared bit by bit. Arguments and errors are those of `match`.
    """
    groups = groups_of(SpecSource(spec).named, options)
    models = open_all([a, b], groups.selection)
    found = problem(models, (a, b), SpecSource(spec, model, inputs), groups)
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
