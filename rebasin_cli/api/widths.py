"""Models made wider by units that do nothing: widen."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeGuard, overload

from torch import Tensor, nn

from rebasin_cli.alignment.function_check import FunctionCheck
from rebasin_cli.api.keywords import Groups, groups_of
from rebasin_cli.api.running import library_verb, running_models
from rebasin_cli.api.specs import NetworkLike, SpecLike, SpecSource, matching_problem, subject_given
from rebasin_cli.api.tensors_in import (
    Model,
    ModelInMemory,
    OutputForm,
    in_given_form,
    open_all,
    open_beside,
)
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.widened_models import widen_models
from rebasin_cli.errors import RebasinError, UsageError
from rebasin_cli.files.provenance import provenance
from rebasin_cli.network.network import network_of
from rebasin_cli.spec_choice.choice import Choice, GivenSpec
from rebasin_cli.tensors import TensorSource
from rebasin_cli.widening.growth import plan_growth
from rebasin_cli.widening.wider_checkpoint import WiderCheckpoint, as_wider
from rebasin_cli.widening.wider_proof import prove_widening, resized_check
from rebasin_cli.widening.wider_sizes import checked_sizes, sizes_of

if TYPE_CHECKING:
    from os import PathLike

    from typing_extensions import Unpack

    from rebasin_cli.api.keywords import Options
    from rebasin_cli.api.specs import MatchOptions


@overload
def widen(
    a: ModelInMemory,
    to: Mapping[str, int] | Model,
    *,
    trust: bool = False,
    **options: Unpack[MatchOptions],
) -> dict[str, Tensor]: ...


@overload
def widen(
    a: TensorSource | str | PathLike[str],
    to: Mapping[str, int] | Model,
    *,
    trust: bool = False,
    **options: Unpack[MatchOptions],
) -> Checkpoint: ...


@library_verb
def widen(
    a: Model,
    to: Mapping[str, int] | Model,
    *,
    trust: bool = False,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> dict[str, Tensor] | Checkpoint:
    """Return a model with more units, all of which do nothing: its function stays the same.

    to: the new sizes: the name of a group, or a glob over names -> its number of units; or a model
    that has the widths wanted. All weights of new units are zero.
    model, inputs: a network that is run as it is and wider, to see that outputs stay. Without one,
    `trust` is needed for groups of which the spec does not show that new units do nothing: then
    nothing is run, and it is for you to compare outputs.
    The other arguments are those of `match`; the result has the form that `fold` returns. A
    config.json is not rewritten. Raises UsageError for groups that cannot be widened, with the
    reason for each, and what `match` raises. The command is `rebasin widen`.
    """
    groups = groups_of(SpecSource(spec).named, options)
    (held,) = open_all([a], groups.selection, label="the model")
    found = matching_problem(
        [held], [a], SpecSource(spec, model, inputs), groups, done="multiplied"
    )
    (seen,), choice = found.models, found.choice
    if _is_model(to):
        like = open_beside(seen, to, groups.selection)
        sizes = dict(sizes_of(choice.bound, like, groups.selection))
    else:
        sizes = _sizes(to)
    growth = plan_growth(
        choice.bound, checked_sizes(choice.bound, sizes), choice.movable, seen.names()
    )
    wide = as_wider(seen, growth, {})
    if not trust:
        hint = "other widths, or where outputs stay: trust=True"
        _prove(wide, a, SpecSource(spec, model, inputs), groups, hint)
    return in_given_form([a], wide, _form(wide, seen, choice, groups))


def as_wide_as(a: Model, b: Model, source: SpecSource, groups: Groups) -> Model:
    """Return `b` with the widths of `a`, as `rebasin align --widen` does before it aligns.

    Raises UsageError where `b` is wider, and where nothing tells that new units do nothing.
    """
    reference, held = open_all([a, b], groups.selection)
    choice = matching_problem([reference], [a], source, groups).choice
    asked = AlignRequest(models=(), widen=True, selection=groups.selection)
    given = GivenSpec(choice.name, choice.bound.spec)
    (wide,) = widen_models(reference, [held], asked, given)
    if not isinstance(wide, WiderCheckpoint):
        return b
    hint = "where outputs stay: align(a, widen(b, a, trust=True))"
    _prove(wide, b, source, groups, hint)
    return in_given_form([b], wide, _form(wide, held, choice, groups))


def _prove(
    wide: WiderCheckpoint, narrow: Model, source: SpecSource, groups: Groups, hint: str
) -> None:
    """Raise UsageError for what computes something else, or of which nothing tells."""
    given = narrow if source.model is None and isinstance(narrow, nn.Module) else source.model
    check = None
    with running_models():
        if given is not None:
            with suppress(RebasinError):  # a network that cannot be run tells nothing
                subject = subject_given(given, source.inputs)
                network = network_of(subject, wide.narrow, groups.selection)
                check = resized_check(FunctionCheck(network, required=False), wide)
        try:
            prove_widening(check, wide, where=str(wide.path))
        except UsageError as error:
            raise UsageError(*(replace(one, hint=hint) for one in error.problems)) from error


def _form(wide: WiderCheckpoint, narrow: Checkpoint, choice: Choice, groups: Groups) -> OutputForm:
    told = {name: list(pair) for name, pair in wide.growth.sizes.items()}
    facts = partial(provenance, "widen", [narrow], basin=None, spec=choice.name, groups=told)
    return OutputForm([wide], facts, groups.selection)


def _is_model(to: Mapping[str, int] | Model) -> TypeGuard[Model]:
    """Return whether it is a model, and not sizes by name."""
    if isinstance(to, nn.Module) or not isinstance(to, Mapping):
        return True
    return any(isinstance(value, Tensor) for value in to.values())


def _sizes(to: object) -> dict[str, int]:
    """Return sizes by name. Raises UsageError for what is none."""
    sizes = dict(to) if isinstance(to, Mapping) else {}
    wrong = next((v for v in sizes.values() if type(v) is not int or v < 1), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} is no number of units", hint="to={'hidden.*': 512}")
    return sizes
