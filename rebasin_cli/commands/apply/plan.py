"""The plan of `rebasin apply`."""

from __future__ import annotations

from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from rebasin_cli.activations.statistics_file import KEY as STATISTICS
from rebasin_cli.adapters.adapter import adapter_configuration
from rebasin_cli.adapters.factor_names import is_adapter
from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.reader import Checkpoint
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
from rebasin_cli.commands.apply.movement import Movement, Reordering, Rotation
from rebasin_cli.errors import PermutationError, UsageError
from rebasin_cli.files.coded import moves_together, refuse_torn_codes
from rebasin_cli.files.configs import compare_configs
from rebasin_cli.files.headers import headers_of
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import output_paths
from rebasin_cli.files.result_memory import reordered_bytes, written_bytes
from rebasin_cli.files.saved.permutation_file import Saved, read_permutations
from rebasin_cli.files.targets import Target, describe_target, plan_target
from rebasin_cli.folding.map_file import is_map_file, read_maps
from rebasin_cli.folding.tied_heads import untied_check
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.permutation import inverse as inverted
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec_choice.unnamed import check_passed, check_unnamed
from rebasin_cli.tensors import infos


@dataclass(frozen=True)
class ApplyRequest:
    """What a permutation file is applied to: a model, or what belongs to one.

    base: the model that it belongs to, where the permutation file does not tell. keep_unknown:
    leave what follows nothing that is known.
    """

    permutation: Path
    model: Path
    inverse: bool = False
    base: Path | None = None
    keep_unknown: bool = False
    selection: Selection = Selection()
    output: Output = Output()
    computing: Computing = Computing()
    tracing: Tracing = Tracing()


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
        """The estimated peak in bytes; None where it is not known: of what is no permutation."""
        moved = self.movement.apply(self.model)
        if not isinstance(moved, Permuted) or self.belonging or self.check:
            return None
        return written_bytes(self.target.layout, infos(self.model).values()) + reordered_bytes(
            moved, self.target.layout
        )


def plan_apply(request: ApplyRequest) -> ApplyPlan:
    """Return what applying a permutation file will do; of the model only the header is read.

    Raises PermutationError if the file is not a permutation file or does not fit the model.
    """
    if request.tracing.free_outputs:
        raise UsageError("--free-outputs lets the outputs move, so --model has nothing to check")
    states = open_states(request.model, request.selection)
    if states is not None:
        return _plan_states(request, states)
    (checkpoint,) = open_models([request.model], request.selection, adapters=True)
    if STATISTICS in checkpoint.metadata:
        raise PermutationError(
            "it holds what units do on data, and says of which model by a digest",
            where=str(request.model),
            hint="measure the permuted model: rebasin statistics",
        )
    if is_adapter(checkpoint.names()) or adapter_configuration(request.model):
        return _plan_adapter(request, checkpoint)
    try:
        found, movement, saved = _movement(request.permutation, checkpoint, inverse=request.inverse)
    except PermutationError:
        if request.base is None and not is_copy(checkpoint, request.permutation):
            raise
        return _plan_adapter(request, checkpoint)
    return _plan_model(request, found, movement, saved)


def _plan_model(
    request: ApplyRequest, checkpoint: Checkpoint, movement: Movement, saved: Saved
) -> ApplyPlan:
    if request.base is not None:
        raise UsageError(f"{request.model} is a model itself", hint="leave out --base")
    source = request.permutation
    refuse_torn_codes([checkpoint], moves_together(saved.bound, saved.permutations.keys()))
    check_saved(saved, source, checkpoint, request.selection)
    target = _target(request, checkpoint, movement.word)
    check = plan_function_check(
        checkpoint.undivided, request.selection, request.tracing, wanted=request.computing.check
    )
    check = untied_check(check, checkpoint.apart)
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
    _, movement, _ = _movement(request.permutation, owner.model, inverse=request.inverse)
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
    (out,) = output_paths([like], request.output, word=word)
    base = [] if request.base is None else [request.base]
    return plan_target(
        out,
        like,
        request.selection,
        request.output,
        own=[like],
        others=[request.permutation, *base],
        create=request.output.names_folder,
    )


def _movement(
    source: Path, model: Checkpoint, *, inverse: bool
) -> tuple[Checkpoint, Movement, Saved]:
    """Return its model as a file takes it, what it does to that, and what it says of itself."""
    if is_map_file(source):
        found = read_maps(source, model)
        maps = found.maps.inverse() if inverse else found.maps
        return found.model, Rotation(found.folding, maps, found.model.apart), found.saved
    saved = read_permutations(source, model)
    orders = inverted(saved.permutations) if inverse else saved.permutations
    return model, Reordering(saved.bound, orders), saved


def check_saved(saved: Saved, source: Path, model: Checkpoint, selection: Selection) -> None:
    """Raise if the model is another network, or has tensors that the permutation may not know.

    What was unnamed in the model that it was found for could stay there, and can stay here.
    """
    compare_configs([(str(source), saved.config), (str(model.path), model.config)])
    headers = headers_of([model])
    known = selection.passing([*map(escape, saved.passed)])
    check_unnamed(str(source), saved.bound, headers, known)
    check_passed(saved.bound, headers, selection, saved.moving)


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
