"""What can be asked of learning permutations from data, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.learning import Learning
from rebasin_cli.commands.align.request import AlignRequest
from rebasin_cli.errors import CheckpointError, UsageError
from rebasin_cli.files.places import files_of
from rebasin_cli.files.targets import check_ending
from rebasin_cli.tensors import infos

METHOD = "straight-through"


def check_learning(models: Sequence[Checkpoint], request: AlignRequest) -> None:
    """Raise UsageError for options or weights that the method does not take, or a file for the
    state that cannot be one; CheckpointError where there is no folder for it."""
    learning = request.learning
    if learning != Learning() and request.search.method != METHOD:
        raise UsageError(
            "--epochs, --learning-rate, --held-out, --check-every and --resume are about learning",
            hint=f"--method {METHOD}",
        )
    if not 0 < learning.held_out < 1:
        raise UsageError(
            f"--held-out {learning.held_out:g} is not a share",
            hint="a number between 0 and 1, as 0.2",
        )
    complex_ = [i.name for i in infos(models[0]).values() if i.dtype.is_complex]
    if request.search.method == METHOD and complex_:
        raise UsageError(
            f"{METHOD} learns from real weights, and {complex_[0]!r} is complex",
            hint="--method weights matches complex ones too",
        )
    if learning.resume is None:
        return
    if len(models) > 2:
        raise UsageError("--resume keeps the state of one model", hint="align them one by one")
    if learning.resume.resolve() in [f.resolve() for model in models for f in files_of(model)]:
        raise UsageError(f"--resume {learning.resume} is one of the models")
    check_ending(learning.resume)
    if not learning.resume.parent.is_dir():
        raise CheckpointError("there is no such folder", where=str(learning.resume.parent))
