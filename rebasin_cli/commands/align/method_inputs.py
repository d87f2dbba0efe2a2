"""The methods of align that run the models on data: what each of them needs for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.activations.observe import check_places
from rebasin_cli.activations.statistics_file import Statistics, read_statistics
from rebasin_cli.activations.units import SIMILARITIES
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.align.command import STRAIGHT_THROUGH, AlignRequest
from rebasin_cli.commands.align.kept_state import check_state_place
from rebasin_cli.commands.align.learning import Learning, check_held_out
from rebasin_cli.errors import UsageError, look_up
from rebasin_cli.execution.workers import LOCAL
from rebasin_cli.network.network import UserCode, plan_user_code
from rebasin_cli.options.activations import Activations
from rebasin_cli.options.data import SAMPLED
from rebasin_cli.tensors import infos


@dataclass(frozen=True)
class MethodInputs:
    """What a method works with besides the weights.

    code: the model and its data, if it runs. statistics: what was gathered before instead.
    """

    code: UserCode | None = None
    statistics: Statistics | None = None


def plan_activations(reference: Checkpoint, request: AlignRequest) -> MethodInputs:
    """Return the model and the data whose activations are compared, or the file that tells."""
    chosen = request.activations
    look_up("similarity", chosen.similarity, SIMILARITIES)
    check_places(chosen)
    if not 0 < chosen.mix <= 1:
        raise UsageError(
            f"--mix {chosen.mix:g} is not a share of the activations",
            hint="above 0, and up to 1: activations alone",
        )
    if chosen.statistics is None:
        return MethodInputs(
            plan_user_code(reference, request.selection, request.tracing, request.data, fed=True)
        )
    if request.data.data is not None:
        raise UsageError("--statistics and --data exclude each other")
    found = read_statistics(chosen.statistics)
    if len(found.models) < 2:
        raise UsageError(
            f"{found.path} tells of one model",
            hint="rebasin statistics A B writes what a pair does on the same data",
        )
    return MethodInputs(statistics=found)


def check_chosen(request: AlignRequest, start: Path | None) -> None:
    """Raise UsageError for options of activations where the method is another, and vice versa.

    start: a permutation file to start from.
    """
    if start is not None and request.search.method == "activations":
        raise UsageError(
            "matching on activations does not start from a permutation file",
            hint="leave out --start: where a search starts hardly matters to it",
        )
    if request.executor != LOCAL and request.search.method in DATA_METHODS:
        raise UsageError(
            f"--executor {request.executor} does not go with --method {request.search.method}",
            detail="the models and the data of the user's code stay in one process",
            hint="leave out --executor, or --method",
        )
    if request.activations != Activations() and request.search.method != "activations":
        raise UsageError(
            "--statistics, --similarity, --mix, --point and --stream are of another method",
            hint="--method activations",
        )


def plan_straight_through(reference: Checkpoint, request: AlignRequest) -> MethodInputs:
    """Return the model and the data that permutations are learned from."""
    if request.data.data == SAMPLED:
        raise UsageError(
            "straight-through learns from right answers, and sampled text has none",
            hint="--data file.py:batches yields (inputs, targets)",
        )
    return MethodInputs(
        plan_user_code(reference, request.selection, request.tracing, request.data, fed=True)
    )


# The same names as in `run.DATA_METHODS`, which carries them out.
DATA_METHODS: Mapping[str, Callable[[Checkpoint, AlignRequest], MethodInputs]] = {
    "activations": plan_activations,
    STRAIGHT_THROUGH: plan_straight_through,
}


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
