"""Carrying statistics to a permuted model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rebasin_cli.activations.layer_statistics import from_flat, layer_tensor
from rebasin_cli.activations.measured_model import MeasuredModel, model_digest
from rebasin_cli.activations.statistics_file import load_units, of_other_models
from rebasin_cli.commands.apply.belonging_plan import Belonging
from rebasin_cli.commands.apply.plan import Applied
from rebasin_cli.commands.apply.statistics.carried import carried_groups, carried_layers
from rebasin_cli.commands.apply.statistics.plan import MovedStatisticsPlan, other_model
from rebasin_cli.commands.apply.statistics.regrouped import regrouped_permutations
from rebasin_cli.errors import PermutationError
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import write_tensors_to
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.compare import same_bits


def run_moved_statistics(
    plan: MovedStatisticsPlan, progress: Progress
) -> Iterator[LeftAsIs | Applied]:
    """Yield the file of what the units of the permuted model do, known by the digest of that."""
    if plan.place.skip:
        yield LeftAsIs(plan.place.path, "exists")
        return
    progress("reading the model", 0, 0)
    _check_whole(plan)
    side = _side(plan)
    orders = regrouped_permutations(plan.movement, plan.bound)
    models = list(plan.statistics.models)
    models[side] = MeasuredModel(None, model_digest(_permuted(plan, orders), plan.base))
    groups = carried_groups(plan.file, plan.statistics.dims, side, orders)
    layers = carried_layers(plan.file, plan.layers, side, plan.base, plan.movement)
    tensors = {**groups, **layers.tensors}
    facts = provenance("apply", [plan.file, plan.base], basin=None, inverse=plan.request.inverse)
    metadata = {**plan.file.metadata, **facts, **of_other_models(plan.file, models)}
    written = write_tensors_to(plan.place, tensors, metadata)
    yield Applied(
        model=plan.file.path,
        permutation=plan.source,
        inverted=plan.request.inverse,
        word=plan.movement.word,
        groups=len(plan.movement.groups),
        moved=plan.movement.moved,
        written=written,
        belonging=replace(_belonging_of(plan, side, tensors), lost=layers.left),
    )


def _check_whole(plan: MovedStatisticsPlan) -> None:
    """Raise CheckpointError for a file whose tensors do not fit together."""
    load_units(plan.statistics)
    from_flat({name: plan.file.load(name) for name in plan.file.names() if layer_tensor(name)})


def _side(plan: MovedStatisticsPlan) -> int:
    """Return which of the models of the statistics moves: the last that the base is.

    Raises PermutationError if it is none of them.
    """
    known = plan.statistics.known(plan.base)
    sides = [k for k, own in enumerate(plan.statistics.models) if own.same_as(known)]
    if not sides:
        detail = f"sha256 {plan.base.sha256()[:12]} is not in them"
        raise other_model(plan.statistics, plan.base, detail)
    return sides[-1]


def _permuted(plan: MovedStatisticsPlan, orders: Permutations) -> TensorSource:
    """Return the permuted model, as it is read. Raises where the statistics cannot say it."""
    one = plan.movement.apply(plan.base)
    return _Same(one, Permuted(plan.base, plan.bound.tensors, orders))


class _Same(Derived):
    """A source of whose tensors each has to be that of another, bit by bit."""

    def __init__(self, source: TensorSource, other: TensorSource) -> None:
        super().__init__(source)
        self._other = other

    def load(self, name: str) -> Tensor:
        tensor = super().load(name)
        if not same_bits(tensor, self._other.load(name)):
            raise PermutationError(
                f"the permutation moves {name!r} in a way that groups of the statistics do not",
                hint="the two are of other specs: measure the permuted model with rebasin "
                "statistics",
            )
        return tensor


def _belonging_of(plan: MovedStatisticsPlan, side: int, tensors: Mapping[str, Tensor]) -> Belonging:
    moved = sum(not torch.equal(tensor, plan.file.load(n)) for n, tensor in tensors.items())
    several = len(plan.statistics.models) > 1
    which = f", the {('first', 'second')[side]} of two models" if several else ""
    return Belonging(f"statistics of {plan.base.path}{which},", len(tensors), moved)
