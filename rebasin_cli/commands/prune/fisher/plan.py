"""What judging weights by the Fisher takes: a model that runs, labelled data, sizes of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.prune.command import PruneRequest
from rebasin_cli.errors import CheckpointError, UsageError
from rebasin_cli.network.network import UserCode, plan_user_code

DIAGONAL, IN_BLOCKS = "diagonal-fisher", "block-fisher"
FISHER_METHODS = (DIAGONAL, IN_BLOCKS)
BLOCK_SIZE = 64
# Of the mean of the diagonal. With the paper's 1e-5 a few hundred examples say of most directions
# that nothing depends on them: at 80 % of a ResNet-20 blocks are then worse than magnitudes.
DAMPING = 1.0


@dataclass(frozen=True)
class FisherPlan:
    """The model and its data, and how its Fisher is cut.

    damping: as a share of the mean of the diagonal.
    """

    code: UserCode
    block_size: int
    damping: float

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "model": self.code.network.subject.name,
            "data": self.code.data.data,
            "batches": self.code.data.batches,
            "block_size": self.block_size,
            "damping": self.damping,
        }


def check_blocks(request: PruneRequest) -> None:
    """Raise UsageError for --block-size or --damping with another method or an impossible value."""
    said = {"--block-size": request.block_size, "--damping": request.damping}
    for option, value in said.items():
        if value is not None and request.method != IN_BLOCKS:
            raise UsageError(
                f"{option} says nothing to method {request.method!r}",
                hint=f"--method {IN_BLOCKS}",
            )
    damping = request.damping
    if damping is not None and not (isfinite(damping) and damping > 0):
        raise UsageError(
            f"--damping {damping:g}: a matrix is inverted, and needs a positive number"
        )


def plan_fisher(model: Checkpoint, names: tuple[str, ...], request: PruneRequest) -> FisherPlan:
    """Return how the weights of some names will be judged.

    Raises UsageError where no model or no data is named and for complex weights, CheckpointError
    for weights that the model has not.
    """
    selection = request.selection.all_tensors
    code = plan_user_code(model, selection, request.tracing, request.data, fed=True)
    strange = [name for name in names if name not in code.network.windows]
    if strange:
        raise CheckpointError(
            f"tensor {strange[0]!r} is no weight of {code.network.subject.name}",
            where=str(model.path),
            hint="--skip GLOB leaves it as it is",
        )
    pairs = [name for name in names if model.info(name).dtype.is_complex]
    if pairs:
        raise UsageError(
            f"tensor {pairs[0]!r} is complex, and costs are of real weights",
            hint="--method magnitude, or --skip GLOB",
        )
    return FisherPlan(
        code=code,
        block_size=BLOCK_SIZE if request.block_size is None else request.block_size,
        damping=DAMPING if request.damping is None else request.damping,
    )
