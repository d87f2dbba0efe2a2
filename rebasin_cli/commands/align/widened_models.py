"""Models that are narrower than the reference, made as wide before they are aligned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rebasin_cli.alignment.function_check import plan_function_check
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.errors import CheckpointError, Problem, SpecError, UsageError
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.headers import headers_of
from rebasin_cli.network.resized_network import resized_network
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec_choice.bundled import bound_to
from rebasin_cli.spec_choice.choice import Choice, GivenSpec, choose_spec
from rebasin_cli.spec_choice.traced_fit import class_in_config
from rebasin_cli.widening.growth import plan_growth
from rebasin_cli.widening.wide_models import wider_model
from rebasin_cli.widening.wider_checkpoint import WiderCheckpoint
from rebasin_cli.widening.wider_proof import WiderCheck, prove_widening


def check_widening(request: AlignRequest) -> None:
    """Raise UsageError for a way to align that does not widen."""
    if request.widen and (request.symmetry != "permutation" or request.select is not None):
        raise UsageError(
            "--widen aligns by permutations",
            hint="rebasin widen MODEL --to REF first, then align what it writes",
        )
    if request.widen and request.selection.common:
        raise UsageError("--widen and --common exclude each other")


def widen_models(
    reference: Checkpoint,
    models: list[Checkpoint],
    request: AlignRequest,
    given: GivenSpec | None,
) -> list[Checkpoint]:
    """Return models as wide as the reference; those that are so already stay.

    Raises UsageError for a model that is wider, or that cannot be widened, with the reason.
    """
    if not request.widen:
        return models
    selection, tracing = request.selection, request.tracing.unless(request.selection.spec)
    choice = choose_spec([reference], selection, tracing=tracing, given=given)
    return [_widen_to(reference, model, choice, request) for model in models]


def _widen_to(
    reference: Checkpoint, model: Checkpoint, choice: Choice, request: AlignRequest
) -> Checkpoint:
    bound = _own(model, choice, request)
    sizes = {name: group.size for name, group in choice.bound.groups.items()}
    _check_narrower(reference, model, bound, sizes)
    growth = plan_growth(bound, sizes, choice.movable, model.names())
    if not growth.sizes:
        return model
    refuse_codes([model], request.selection, done="multiplied")
    return wider_model(model, bound, growth, request.selection, like=reference)


def _own(model: Checkpoint, choice: Choice, request: AlignRequest) -> BoundSpec:
    """Return the spec with the sizes of a narrower model.

    A trace may have the number of heads in it: then its own config.json says what is traced.
    """
    try:
        return bound_to(choice.bound.spec, headers_of([model]), request.selection)
    except SpecError as error:
        if choice.traced is not None and model.config:
            return choose_spec([model], request.selection).bound
        hint = "widen it first (--to GROUP=N), then align the wider one"
        problems = (replace(p, where=str(model.path), hint=hint) for p in error.problems)
        raise SpecError(*problems) from error


def _check_narrower(
    reference: Checkpoint, model: Checkpoint, bound: BoundSpec, sizes: dict[str, int]
) -> None:
    """Raise if a model has groups that the reference has not, or more units in one."""
    if bound.groups.keys() != sizes.keys():
        raise CheckpointError(
            f"its groups are not those of {reference.path}: only widths may differ",
            where=str(model.path),
        )
    larger = [g for g, group in bound.groups.items() if group.size > sizes[g]]
    if larger:
        told = [f"{g} has {bound.groups[g].size:,} units, there {sizes[g]:,}" for g in larger[:10]]
        raise UsageError(
            Problem(
                f"it is wider than {reference.path}",
                where=str(model.path),
                detail="\n".join(told),
                hint="name the widest model first; where neither is, widen both before",
            )
        )


def prove_models(
    reference: Checkpoint, models: list[Checkpoint], choice: Choice, request: AlignRequest
) -> None:
    """Raise UsageError if a model that was widened computes something else, seen by running it."""
    for model in (m for m in models if isinstance(m, WiderCheckpoint)):
        if request.computing.check is not False:
            prove_widening(_check(reference, model, choice, request), model, where=str(model.path))


def _check(
    reference: Checkpoint, model: WiderCheckpoint, choice: Choice, request: AlignRequest
) -> WiderCheck | None:
    """Return the models to run: the reference's class, and the one of the narrower model.

    That is what its own config.json says, else the reference's class with its layers resized.
    """
    wide = plan_function_check(reference, request, choice=choice)
    if wide is None:
        return None
    narrow = model.narrow
    if narrow.config and class_in_config(headers_of([narrow])) and not request.tracing.target:
        own = plan_function_check(narrow, replace(request, tracing=Tracing()))
        return WiderCheck(own, wide) if own else None
    shapes = {
        name: narrow.info(name).shape
        for name in narrow.names()
        if narrow.info(name) != model.info(name) and name in wide.network.windows
    }
    network = resized_network(wide.network, shapes)
    return WiderCheck(replace(wide, network=network), wide)


def growth_of(model: Checkpoint) -> Mapping[str, tuple[int, int]]:
    """Return the sizes of groups before and after, of a model that was widened."""
    return model.growth.sizes if isinstance(model, WiderCheckpoint) else {}


def settings_of(model: Checkpoint) -> Mapping[str, Any]:
    """Return what the config.json of a model says otherwise, if it was widened."""
    return model.settings if isinstance(model, WiderCheckpoint) else {}
