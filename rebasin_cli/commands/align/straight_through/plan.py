"""What can be asked of learning permutations from data, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import STRAIGHT_THROUGH, AlignRequest
from rebasin_cli.commands.align.kept_state import check_state_place
from rebasin_cli.commands.align.learning import Learning, check_held_out
from rebasin_cli.errors import UsageError
from rebasin_cli.tensors import infos


def check_learning(models: Sequence[Checkpoint], request: AlignRequest) -> None:
    """Raise UsageError for options or weights that the method does not take, or a file for the
    state that cannot be one; CheckpointError where there is no folder for it."""
    learning = request.learning_options
    if learning != Learning() and request.search.method != STRAIGHT_THROUGH:
        raise UsageError(
            "--epochs, --learning-rate, --held-out and --check-every are about learning",
            hint=f"--method {STRAIGHT_THROUGH}; --held-out is of --symmetry orthogonal --learn too",
        )
    check_held_out(learning)
    complex_ = [i.name for i in infos(models[0]).values() if i.dtype.is_complex]
    if request.search.method == STRAIGHT_THROUGH and complex_:
        raise UsageError(
            f"{STRAIGHT_THROUGH} learns from real weights, and {complex_[0]!r} is complex",
            hint="--method weights matches complex ones too",
        )
    check_state_place(models, learning.resume)
