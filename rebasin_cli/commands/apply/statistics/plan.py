"""The plan of `rebasin apply` for a file of what units do on data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.activations.layer_places import UnitPlaces
from rebasin_cli.activations.statistics_file import Statistics, statistics_in
from rebasin_cli.alignment.problem import warn_idle
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.apply.belongings.owner import owner_of
from rebasin_cli.commands.apply.command import ApplyRequest
from rebasin_cli.commands.apply.movement import Reordering
from rebasin_cli.commands.apply.saved_movement import check_saved
from rebasin_cli.errors import PermutationError, SpecError, UsageError
from rebasin_cli.files.coded import moves_together, refuse_torn_codes
from rebasin_cli.files.inputs import describe_inputs
from rebasin_cli.files.names.name_views import bind_seen
from rebasin_cli.files.output_names import output_paths
from rebasin_cli.files.places import OutputPlace, files_of, plan_place
from rebasin_cli.files.saved.permutation_file import Saved, read_permutations
from rebasin_cli.files.targets import KEEP, check_ending
from rebasin_cli.folding.map_file import is_map_file
from rebasin_cli.permutation import inverse as inverted
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import infos


@dataclass(frozen=True)
class MovedStatisticsPlan:
    """All that carrying statistics to a permuted model needs.

    file: of the statistics. base: the model that moves, as it was measured; bound: their spec, with
    its tensors. movement: what the permutation does to it. layers: where units of layers stand.
    """

    file: Checkpoint
    statistics: Statistics
    layers: UnitPlaces
    base: Checkpoint
    bound: BoundSpec
    source: Path
    movement: Reordering
    place: OutputPlace
    request: ApplyRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "apply",
            "inputs": describe_inputs([self.file, self.base]),
            "permutation": str(self.source),
            "groups": sorted(self.movement.groups),
            "outputs": [{"path": str(self.place.path), "format": "safetensors"}],
        }


def plan_moved_statistics(request: ApplyRequest, file: Checkpoint) -> MovedStatisticsPlan:
    """Return how statistics are carried to the permuted model; nothing is read but headers.

    Raises PermutationError for maps, for no base or another, and for a file that does not tell
    where the units of its layers stand.
    """
    source, where = request.permutation, str(request.model)
    idle = {"--model": request.tracing.target, "--check": request.computing.check}
    warn_idle(idle, "statistics are carried, and no model is written that could be run")
    if is_map_file(source):
        raise PermutationError(
            f"its units do not follow the maps of {source}, which mix them: variances of units do "
            "not tell that of a mixture",
            where=where,
            hint="measure the rotated model with rebasin statistics",
        )
    statistics = statistics_in(file)
    if statistics.layers is None:
        raise PermutationError(
            "an earlier version wrote it, and it does not tell where the units of layers stand",
            where=where,
            hint="measure anew with rebasin statistics",
        )
    if request.base is None:
        raise PermutationError(
            "it tells of its models by digests, and the permuted one has another",
            where=where,
            hint="name the model that moves, as it was measured, with --base",
        )
    base = owner_of(source, request.base, request.selection).model
    saved = read_permutations(source, base)
    refuse_torn_codes([base], moves_together(saved.bound, saved.permutations.keys()))
    check_saved(saved, source, base, request.selection)
    return MovedStatisticsPlan(
        file=file,
        statistics=statistics,
        layers=statistics.layers,
        base=base,
        bound=_bound(statistics, base),
        source=source,
        movement=_movement(saved, inverse=request.inverse),
        place=_place(request, file, base),
        request=request,
    )


def _movement(saved: Saved, *, inverse: bool) -> Reordering:
    orders = inverted(saved.permutations) if inverse else saved.permutations
    return Reordering(saved.bound, orders)


def _bound(statistics: Statistics, base: Checkpoint) -> BoundSpec:
    """Return the spec of the statistics with the tensors of a model that it fits."""
    try:
        found = bind_seen(
            statistics.spec, infos(base), config=base.config, sizes={}, ties=base.ties
        )
    except SpecError as error:
        raise other_model(statistics, base, error.problems[0].what) from error
    sizes = {name: group.size for name, group in found.groups.items()}
    for name, size in (dim for dims in statistics.dims for dim in dims):
        if sizes.get(name) != size:
            detail = f"group {name!r} has {size} units in one, {sizes.get(name)} in the other"
            raise other_model(statistics, base, detail)
    return found


def other_model(statistics: Statistics, base: Checkpoint, detail: str) -> PermutationError:
    """Return the error for a base that the statistics are not of."""
    return PermutationError(
        f"its statistics are not of {base.path}",
        where=str(statistics.path),
        detail=detail,
        hint="--base names the model as it was when it was measured",
    )


def _place(request: ApplyRequest, file: Checkpoint, base: Checkpoint) -> OutputPlace:
    output = request.output
    if output.max_shard_size is not None or output.dtype != KEEP:
        raise UsageError(f"{request.model} stays one file, in float64")
    (out,) = output_paths([file], output, word="permuted")
    check_ending(out)
    others = [*files_of(base), request.permutation]
    return plan_place(out, output, own=files_of(file), others=others, create=output.names_folder)
