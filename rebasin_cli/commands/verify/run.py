"""Carrying out `rebasin verify`."""

from __future__ import annotations

from collections.abc import Iterator

from rebasin_cli.alignment.function_check import check_of
from rebasin_cli.alignment.functions import FunctionDifference, compare_functions
from rebasin_cli.commands.verify.plan import Verified, VerifyPlan
from rebasin_cli.files.saved.permutation_file import save_permutations
from rebasin_cli.matching.match_weights import match_weights
from rebasin_cli.permuted import Permuted
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.compare import in_widest, relative_difference, same_bits


def run_verify(plan: VerifyPlan, progress: Progress) -> Iterator[Verified]:
    """Yield whether B is A with its units reordered, with every tensor compared bit by bit.

    Buffers vote here: if B is a permutation of A at all, it brings them together too, and
    they tell apart units whose weights are equal.
    """
    selects = plan.request.selection.selects
    bound = plan.choice.bound.with_votes(lambda tensor: all(map(selects, tensor.members)))
    matching = match_weights(
        plan.a,
        plan.b,
        bound,
        settings=plan.machine.settings(plan.request.search),
        movable=plan.choice.movable,
        labels=(str(plan.a.path), str(plan.b.path)),
        progress=progress,
    )
    moved = Permuted(plan.b, bound.tensors, matching.permutations)
    different = _differences(plan, moved)
    yield Verified(
        a=plan.a.path,
        b=plan.b.path,
        spec=plan.choice.name,
        matching=matching,
        different=tuple(different),
        max_difference=max((0.0, *different.values())),
        permutation=save_permutations(
            plan.save,
            matching.permutations,
            plan.choice.bound,
            (plan.a, plan.b),
            plan.request.selection.sizes,
        ),
        alike=plan.choice.alike,
        function=_compared_functions(plan, moved),
    )


def _differences(plan: VerifyPlan, moved: TensorSource) -> dict[str, float]:
    """Return the tensors of A that B has not bit for bit, with how far they are apart."""
    theirs = set(plan.b.names())
    found = {}
    for name in plan.a.names():
        if not plan.request.selection.selects(name) or name not in theirs:
            continue
        a, b = plan.a.load(name), moved.load(name)
        if not same_bits(a, b):
            found[name] = relative_difference(a, b, widen=in_widest)
    return found


def _compared_functions(plan: VerifyPlan, moved: TensorSource) -> FunctionDifference | None:
    """Return how far apart A and B are as functions, if the user named a model to run.

    Where units of the outputs may change places, they are put in the order of A before.
    """
    traced = plan.choice.traced
    if traced is None or plan.choice.automatic:
        return None
    other = moved if traced.tracing.free_outputs else plan.b
    return compare_functions(check_of(traced), plan.a, other)
