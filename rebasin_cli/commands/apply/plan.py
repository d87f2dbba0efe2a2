"""The plan of `rebasin apply`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rebasin_cli.activations.statistics_file import KEY as STATISTICS
from rebasin_cli.adapters.adapter import adapter_configuration
from rebasin_cli.adapters.factor_names import is_adapter
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.torch_format.container import PartError
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.apply.belonging_plan import (
    Belonging,
    open_states,
    plan_adapter,
    plan_training,
)
from rebasin_cli.commands.apply.belongings.owner import (
    OwnerModel,
    in_module_order,
    is_copy,
    owner_of,
)
from rebasin_cli.commands.apply.belongings.training import Training
from rebasin_cli.commands.apply.command import ApplyRequest
from rebasin_cli.commands.apply.movement import Movement
from rebasin_cli.commands.apply.saved_movement import check_saved, read_movement
from rebasin_cli.commands.apply.statistics.plan import MovedStatisticsPlan, plan_moved_statistics
from rebasin_cli.errors import PermutationError, UsageError
from rebasin_cli.files.coded import moves_together, refuse_torn_codes
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import own_target
from rebasin_cli.files.result_memory import reordered_bytes, written_bytes
from rebasin_cli.files.saved.permutation_file import Saved
from rebasin_cli.files.targets import Target, describe_target, output_infos
from rebasin_cli.folding.tied_heads import untied_check
from rebasin_cli.options.selection import Selection
from rebasin_cli.permuted import Permuted


@dataclass(frozen=True)
class ApplyPlan:
    """All that `run_apply` needs: a model or what belongs to one, what is done to it, a target.

    check: the model to check with that its function stays; None: nothing is run. belonging: None
    of a model. training: what follows the weights, of the same file, that is no weights.
    """

    model: Checkpoint
    source: Path
    movement: Movement
    target: Target
    request: ApplyRequest
    check: FunctionCheck | None = None
    belonging: Belonging | None = None
    training: Training = field(default_factory=Training)

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "apply",
            "inputs": describe_inputs([self.model]),
            "permutation": str(self.source),
            "groups": sorted(self.movement.groups),
            "outputs": [describe_target(self.target)],
            **({} if self.memory is None else {"memory": self.memory}),
        }

    @property
    def memory(self) -> int | None:
        """The estimated peak in bytes; None, unknown, except for plain permutations of a model."""
        moved = self.movement.apply(self.model)
        if not isinstance(moved, Permuted) or self.belonging or self.check:
            return None
        layout, asked = self.target.layout, self.request
        tensors = output_infos(self.model, layout, asked.selection, asked.output)
        return written_bytes(layout, tensors) + reordered_bytes(moved, layout)


def plan_apply(request: ApplyRequest) -> ApplyPlan | MovedStatisticsPlan:
    """Return what applying a permutation file will do; of the model only the header is read.

    Raises PermutationError if the file is not a permutation file or does not fit the model.
    """
    if request.tracing.free_outputs:
        raise UsageError("--free-outputs lets the outputs move, so --model has nothing to check")
    own = _reading_of_model(request)
    states = open_states(request.model, own)
    if states is not None:
        return _plan_states(request, states)
    (checkpoint,) = open_models([request.model], own, adapters=True)
    if STATISTICS in checkpoint.metadata:
        return plan_moved_statistics(request, checkpoint)
    if is_adapter(checkpoint.names()) or adapter_configuration(request.model):
        return _plan_adapter(request, checkpoint)
    try:
        found, movement, saved = read_movement(
            request.permutation, checkpoint, inverse=request.inverse
        )
    except PermutationError:
        if request.base is None and not is_copy(checkpoint, request.permutation):
            raise
        return _plan_adapter(request, checkpoint)
    return _plan_model(request, found, movement, saved)


def _reading_of_model(request: ApplyRequest) -> Selection:
    """Return how what is moved is read: --key may be of its --base alone."""
    chosen = request.selection
    if request.base is None or chosen.part is None:
        return chosen
    try:
        open_models([request.model], chosen, adapters=True)[0].close()
    except PartError:
        return replace(chosen, key=None, only_part=None)
    return chosen


def _plan_model(
    request: ApplyRequest, checkpoint: Checkpoint, movement: Movement, saved: Saved
) -> ApplyPlan:
    if request.base is not None:
        raise UsageError(f"{request.model} is a model itself", hint="leave out --base")
    source = request.permutation
    refuse_torn_codes([checkpoint], moves_together(saved.bound, saved.permutations.keys()))
    check_saved(saved, source, checkpoint, request.selection)
    target = _target(request, checkpoint, movement.word)
    check = untied_check(plan_function_check(checkpoint.undivided, request), checkpoint.apart)
    training = Training()
    if target.layout.containers and target.fate.stale and request.selection.only_part is None:
        owner = OwnerModel(checkpoint, ordered=True, named=True)
        training = plan_training(
            checkpoint, checkpoint.rest.stale, movement, owner, keep_unknown=request.keep_unknown
        )
    return ApplyPlan(checkpoint, source, movement, target, request, check=check, training=training)


def _plan_adapter(request: ApplyRequest, adapter: Checkpoint) -> ApplyPlan:
    source = request.permutation
    if request.output.max_shard_size is not None:
        raise UsageError(f"{request.model} is no model, and what reads such files knows no shards")
    owner = owner_of(source, request.base, request.selection)
    movement, belonging = plan_adapter(
        adapter, source, owner, inverse=request.inverse, keep_unknown=request.keep_unknown
    )
    target = _target(request, adapter, movement.word)
    return ApplyPlan(adapter, source, movement, target, request, belonging=belonging)


def _plan_states(request: ApplyRequest, file: Checkpoint) -> ApplyPlan:
    """Return the plan of a file that holds states of training alone, as of an optimizer."""
    owner = owner_of(request.permutation, request.base, request.selection)
    owner = in_module_order(owner, request.tracing)
    _, movement, _ = read_movement(request.permutation, owner.model, inverse=request.inverse)
    target = _target(request, file, movement.word)
    if not target.layout.containers:
        raise UsageError(f"{request.model} can be written as a .pt file only")
    training = plan_training(file, [()], movement, owner, keep_unknown=request.keep_unknown)
    belonging = Belonging("training state", len(training.moments), training.moved)
    return ApplyPlan(
        file,
        request.permutation,
        movement,
        target,
        request,
        belonging=belonging,
        training=training,
    )


def _target(request: ApplyRequest, like: Checkpoint, word: str) -> Target:
    others = [request.permutation, *([request.base] if request.base else [])]
    return own_target(like, request.selection, request.output, word=word, others=others)


@dataclass(frozen=True)
class Applied:
    """A model to which a permutation file was applied.

    word: what that did, see `Movement`.
    function: how far its outputs are from those before, if a model was named to run them.
    belonging: what it is, if it is no model.
    """

    model: Path
    permutation: Path
    inverted: bool
    word: str
    groups: int
    moved: int
    written: Written
    function: FunctionDifference | None = None
    belonging: Belonging | None = None
