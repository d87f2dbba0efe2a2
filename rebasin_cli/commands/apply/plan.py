"""The plan of `rebasin apply`."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.apply.movement import Movement, Reordering, Rotation
from rebasin_cli.errors import UsageError
from rebasin_cli.files.coded import moves_together, refuse_torn_codes
from rebasin_cli.files.configs import compare_configs
from rebasin_cli.files.headers import headers_of
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import output_paths
from rebasin_cli.files.permutation_file import Saved, read_permutations
from rebasin_cli.files.targets import Target, describe_target, plan_target
from rebasin_cli.folding.map_file import is_map_file, read_maps
from rebasin_cli.folding.tied_heads import untied_check
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.permutation import inverse as inverted
from rebasin_cli.spec_choice.unnamed import check_passed, check_unnamed


@dataclass(frozen=True)
class ApplyRequest:
    """What a permutation file is applied to."""

    permutation: Path
    model: Path
    inverse: bool = False
    selection: Selection = Selection()
    output: Output = Output()
    computing: Computing = Computing()
    tracing: Tracing = Tracing()


@dataclass(frozen=True)
class ApplyPlan:
    """All that `run_apply` needs: a model, what is done to it, and a target.

    check: the model to check with that its function stays; None: nothing is run.
    """

    model: Checkpoint
    source: Path
    movement: Movement
    inverted: bool
    target: Target
    request: ApplyRequest
    check: FunctionCheck | None = None

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "apply",
            "inputs": describe_inputs([self.model]),
            "permutation": str(self.source),
            "groups": sorted(self.movement.groups),
            "outputs": [describe_target(self.target)],
        }


def plan_apply(request: ApplyRequest) -> ApplyPlan:
    """Return what applying a permutation file will do; of the model only the header is read.

    Raises PermutationError if the file is not a permutation file or does not fit the model.
    """
    (checkpoint,) = open_models([request.model], request.selection)
    source = request.permutation
    checkpoint, movement, saved = _movement(source, checkpoint, inverse=request.inverse)
    refuse_torn_codes([checkpoint], moves_together(saved.bound, saved.permutations.keys()))
    check_saved(saved, source, checkpoint, request.selection)
    (out,) = output_paths([checkpoint], request.output, word=movement.word)
    target = plan_target(
        out,
        checkpoint,
        request.selection,
        request.output,
        own=[checkpoint],
        others=[source],
        create=request.output.names_folder,
    )
    if request.tracing.free_outputs:
        raise UsageError("--free-outputs lets the outputs move, so --model has nothing to check")
    check = plan_function_check(
        checkpoint.undivided, request.selection, request.tracing, wanted=request.computing.check
    )
    check = untied_check(check, checkpoint.apart)
    return ApplyPlan(checkpoint, source, movement, request.inverse, target, request, check)


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
    """

    model: Path
    permutation: Path
    inverted: bool
    word: str
    groups: int
    moved: int
    written: Written
    function: FunctionDifference | None = None
