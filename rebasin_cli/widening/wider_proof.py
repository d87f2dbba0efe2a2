"""Whether a wider model computes what the narrow one does, seen by running both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from rebasin_cli.alignment.function_check import (
    FunctionCheck,
    FunctionCheckRequest,
    plan_function_check,
)
from rebasin_cli.alignment.functions import FunctionDifference, compare_functions
from rebasin_cli.errors import CheckpointError, MachineError, RebasinError, UsageError
from rebasin_cli.network.network import plan_network
from rebasin_cli.network.resized_network import resized_network
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import TensorSource
from rebasin_cli.widening.growth import Growth
from rebasin_cli.widening.wider_checkpoint import Unrounded, WiderCheckpoint

_HINT = (
    "--wide-args JSON are the arguments with which your class builds the wider model; "
    "or other groups with --to"
)


@dataclass(frozen=True)
class WiderCheck:
    """Both models, the one of the narrow checkpoint and that of the wider one."""

    narrow: FunctionCheck
    wide: FunctionCheck


def plan_wider_check(
    wide: WiderCheckpoint,
    request: FunctionCheckRequest,
    *,
    choice: Choice,
    arguments: Mapping[str, object] = MappingProxyType({}),
) -> WiderCheck | None:
    """Return what to run, None if no model is at hand or none is to be run.

    arguments: with which the class builds the wider model, besides those of the narrow one; none:
    its layers are resized. Raises CheckpointError where the class builds one of another width.
    """
    narrow = plan_function_check(wide.narrow, request, choice=choice)
    if narrow is None:
        return None
    asked = narrow.network.tracing
    if not arguments or asked is None:
        return resized_check(narrow, wide)
    asked = replace(asked, arguments={**asked.arguments, **arguments})
    try:
        network = plan_network(wide, request.selection, asked)
    except CheckpointError as error:
        problems = (replace(p, hint=p.hint or _HINT) for p in error.problems)
        raise CheckpointError(*problems) from error
    return WiderCheck(narrow, replace(narrow, network=network))


def resized_check(narrow: FunctionCheck, wide: WiderCheckpoint) -> WiderCheck:
    """Return what to run where the wider model is the narrow one with its layers resized."""
    grown = [name for name in wide.names() if wide.info(name) != wide.narrow.info(name)]
    shapes = {name: wide.info(name).shape for name in grown}
    return WiderCheck(narrow, replace(narrow, network=resized_network(narrow.network, shapes)))


def prove_widening(
    check: WiderCheck | None, wide: WiderCheckpoint, *, where: str
) -> FunctionDifference | None:
    """Return how far outputs are from those of the narrow model; None if nothing was run.

    What is stored in fewer digits than it is computed in is looked at in both; it may be a little
    off. Raises UsageError if they are not the same, or if only running tells and nothing ran.
    """
    found = _compared(check, wide, Unrounded(wide)) if check else None
    if found is None and wide.growth.doubts:
        raise no_proof(wide.growth, where)
    if found is not None and not found.same:
        raise UsageError(
            "with these widths the model computes something else",
            where=where,
            detail="\n".join(
                [
                    f"its outputs move by {found.difference:.2g} of their scale",
                    *_doubt_lines(wide.growth),
                ]
            ),
            hint=_HINT,
        )
    return _compared(check, wide, wide) if found and check and wide.rounds else found


def _compared(
    check: WiderCheck, wide: WiderCheckpoint, seen: TensorSource
) -> FunctionDifference | None:
    """Return how far outputs are apart. seen: the wider one, as stored or as computed."""
    try:
        found = compare_functions(check.narrow, wide.narrow, seen, inputs=1, beside=check.wide)
    except (UsageError, MachineError) as error:
        if check.narrow.required:
            problems = (replace(p, hint=p.hint or _HINT) for p in error.problems)
            raise type(error)(*problems) from error
        return None
    return None if math.isnan(found.difference) else found


def no_proof(growth: Growth, where: str) -> RebasinError:
    """Return the error for groups whose spec does not show that new units do nothing."""
    return UsageError(
        "only running the model shows whether it computes the same with these widths",
        where=where,
        detail="\n".join(_doubt_lines(growth)),
        hint="--model TARGET, or a folder with a config.json; or other groups with --to",
    )


def _doubt_lines(growth: Growth) -> list[str]:
    return [f"{group}: {why}" for group, why in list(growth.doubts.items())[:10]]
