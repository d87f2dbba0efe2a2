"""The plans of `rebasin apply` and `rebasin verify`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint import Checkpoint, open_checkpoint
from rebasin_cli.errors import PermutationError, SpecError
from rebasin_cli.permutation import Permutation
from rebasin_cli.plan.align import output_paths
from rebasin_cli.plan.choice import Choice, choose_spec
from rebasin_cli.plan.estimate import describe_inputs, describe_matching, describe_target
from rebasin_cli.plan.inputs import check_fit, open_models
from rebasin_cli.plan.machine import Machine, plan_machine
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.targets import Place, Target, plan_place, plan_target
from rebasin_cli.spec import BoundSpec, bind, parse
from rebasin_cli.tensors import infos


@dataclass(frozen=True)
class ApplyPlan:
    """All that `run_apply` needs: a model, the permutations that fit it, and a target."""

    model: Checkpoint
    source: Path
    permutations: Mapping[str, Permutation]
    bound: BoundSpec
    inverted: bool
    target: Target
    options: Options

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "apply",
            "inputs": describe_inputs([self.model]),
            "permutation": str(self.source),
            "groups": sorted(self.permutations),
            "outputs": [describe_target(self.target)],
        }


def plan_apply(source: Path, model: Path, options: Options, *, inverted: bool) -> ApplyPlan:
    """Return what applying a permutation file will do; of the model only the header is read.

    Raises PermutationError if the file is not a permutation file or does not fit the model.
    """
    checkpoint = open_checkpoint(model, key=options.key)
    bound, permutations = read_permutations(source, checkpoint)
    (out,) = output_paths([checkpoint], options, word="permuted")
    target = plan_target(out, checkpoint, [checkpoint], options)
    return ApplyPlan(checkpoint, source, permutations, bound, inverted, target, options)


def read_permutations(
    source: Path, checkpoint: Checkpoint
) -> tuple[BoundSpec, dict[str, Permutation]]:
    """Return the spec of a permutation file bound to a checkpoint, and its permutations."""
    with open_checkpoint(source) as file:
        try:
            spec = parse(file.metadata["rebasin.spec"], source=f"{source} (spec)")
            sizes = json.loads(file.metadata.get("rebasin.sizes", "{}"))
            config = json.loads(file.metadata.get("rebasin.config", "{}"))
        except (KeyError, ValueError) as error:
            raise PermutationError(
                "this is not a permutation file",
                where=str(source),
                hint="`rebasin align --save-permutation FILE` writes one",
            ) from error
        try:
            bound = bind(spec, infos(checkpoint), config=config, sizes=sizes, ties=checkpoint.ties)
        except SpecError as error:
            raise PermutationError(
                f"the permutation does not fit {checkpoint.path}",
                where=str(source),
                detail=error.problems[0].what,
                hint="it was found for a checkpoint with other tensors",
            ) from error
        return bound, _fitted(bound, file, source, checkpoint)


def _fitted(
    bound: BoundSpec, file: Checkpoint, source: Path, checkpoint: Checkpoint
) -> dict[str, Permutation]:
    """Return the file's permutations. Raises PermutationError unless they are those of `bound`."""
    expected = {group.name: group.shape for group in bound.groups.values()}
    found = {name: file.info(name).shape for name in file.names()}
    if expected != found:
        name = min(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        raise PermutationError(
            f"the permutation does not fit {checkpoint.path}",
            where=str(source),
            detail=f"group {name!r} is {found.get(name)}, expected {expected.get(name)}",
            hint="it was found for a checkpoint with other tensors",
        )
    return {
        group.name: Permutation(file.load(group.name).long(), group.parents)
        for group in bound.groups.values()
    }


@dataclass(frozen=True)
class VerifyPlan:
    """All that `run_verify` needs. save: where the permutation goes, if anywhere."""

    a: Checkpoint
    b: Checkpoint
    choice: Choice
    save: Place | None
    machine: Machine
    options: Options

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "verify",
            "inputs": describe_inputs([self.a, self.b]),
            **describe_matching(self.choice, self.machine),
        }


def plan_verify(a: Path, b: Path, options: Options, *, save: Path | None) -> VerifyPlan:
    """Return what verifying will do; nothing is read but headers."""
    machine = plan_machine(options)
    first, second = open_models([a, b], options)
    check_fit(first, [second], options)
    place = plan_place(save, [first, second], options) if save else None
    return VerifyPlan(first, second, choose_spec(first, options), place, machine, options)
