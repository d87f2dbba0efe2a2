"""Models with their norms folded: the plan under a chosen spec, and what came of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rebasin_cli.alignment.function_check import FunctionCheck
from rebasin_cli.alignment.functions import FunctionDifference, compare_functions
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.errors import MachineError, PermutationError, UsageError
from rebasin_cli.files.headers import headers_of
from rebasin_cli.files.part_sources import Parts, part_of
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import Derived, TensorSource

MOST_TIED = 0.25  # of a head, beyond which no multiple of the embedding is a head like it
LOW = (torch.float16, torch.bfloat16)
_UNTIE = "--tie untie stores a head of its own; tie_word_embeddings has to be false then"
_OTHER_SPEC = "is the spec that of the model? --no-check writes it all the same"
SAME = 1e-4  # of the outputs' scale: tables of rotary positions may be float32


@dataclass(frozen=True)
class Folded:
    """A model whose norms were folded; written: None if only for the moment.

    tied: |H - a E| / |H|, how far the folded head is from a multiple of the embedding that it is
    tied to; None where nothing is tied. function: how far outputs moved, if the model was run.
    untied: heads that are tensors of their own now.
    """

    model: Path
    spec: str
    norms: int
    written: Written | None = None
    tied: float | None = None
    function: FunctionDifference | None = None
    untied: tuple[str, ...] = ()


def plan_folding(choice: Choice, models: Sequence[Checkpoint]) -> FoldPlan:
    """Return how the norms of models fold under their spec; there may be none.

    Where a gain keeps a stream from being rotated, its norms stay as they are. Raises UsageError
    where nothing else can be rotated, SpecError for what cannot be.
    """
    unsaid = next((norm.gain for norm in choice.bound.norms if norm.offset is None), None)
    if unsaid is not None:
        raise UsageError(
            f"nothing says whether {unsaid!r} multiplies by its values or by one plus them",
            hint="its config.json does: put it beside the weights",
        )
    headers, spec = headers_of(models), choice.bound.spec
    if choice.bound.norms and not spec.maps_hold(headers.config.get("model_type")):
        raise UsageError(
            f"spec {choice.name!r} says how norms fold in models of other types alone: "
            f"{', '.join(spec.model_types)}",
            hint=f"--model hf:{headers.folder}",
        )
    plan = FoldPlan(choice.bound, headers.ties)
    if set(plan.classes.values()) <= {PERMUTATION}:
        check_foldable(plan, choice.name)
    plan.check()
    return plan


def check_foldable(plan: FoldPlan, spec: str) -> None:
    """Raise UsageError where no norm folds. spec: its name."""
    if plan.norms:
        return
    if not plan.bound.norms:
        raise UsageError(
            f"spec {spec!r} says of no norm how it folds",
            hint="permutations need no folding; `norms:` in a spec says which weights read a gain",
        )
    over = plan.tensors[plan.bound.norms[0].gain].groups
    group = next(name for name in plan.scaled if name in over)
    raise UsageError(
        f"{plan.scaled[group]!r} scales units of {group} that no weight alone reads: "
        "they can be permuted, and not rotated",
        hint="permutations need no folding, and no --symmetry orthogonal",
    )


def fold_model(model: Checkpoint, plan: FoldPlan, check: FunctionCheck | None, spec: str) -> Folded:
    """Return what folding the norms of a model does; nothing is written. spec: its name.

    Raises PermutationError where a head that is tied is too far off, or the function changes.
    """
    folded = FoldedNorms(model, plan)
    tied = check_tied(folded, model)
    function = measure_function(check, model, folded, tied, model.path)
    norms, apart = len(plan.norms), tuple(model.apart)
    return Folded(model.path, spec, norms, None, tied, function, apart)


def folded_parts(model: Checkpoint, plan: FoldPlan) -> Parts:
    """Return the parts beside the weights of a model, folded by their own gains."""
    return lambda key: FoldedNorms(part_of(model, key, plan.bound.tensors), plan)


def check_tied(folded: FoldedNorms, model: Checkpoint) -> float | None:
    """Return how far a head is from the embedding it is tied to; raise where that is too far."""
    error = folded.tied_error()
    if error is not None and error > MOST_TIED:
        raise PermutationError(
            "the output head is the embedding, and with the gain of the last norm it would not be",
            where=str(model.path),
            detail=f"no multiple of the embedding is nearer to it than {error:.2g} of its length",
            hint=_UNTIE,
        )
    return error


def measure_function(
    check: FunctionCheck | None,
    before: TensorSource,
    after: TensorSource,
    tied: float | None,
    where: Path,
) -> FunctionDifference | None:
    """Return how far outputs move, if a model is at hand; raise if that is more than rounding.

    The rounding of what is stored in less than 32 bits is in the answer, and no reason to raise.
    tied: where a head stays tied it is an approximation, and the difference may be that.
    """
    if check is None:
        return None
    try:
        found = compare_functions(check, before, after, inputs=1)
    except (UsageError, MachineError):
        if check.required:
            raise
        return None
    if not found.difference <= (SAME if tied is None else MOST_TIED):
        raise PermutationError(
            f"{check.network.subject.name} computes something else with its norms folded",
            where=str(where),
            detail=f"its outputs move by {found.difference:.2g} of their scale",
            hint=_UNTIE if tied else _OTHER_SPEC,
        )
    low = any(after.info(name).dtype in LOW for name in after.names())
    return compare_functions(check, before, _Rounded(after), inputs=1) if low else found


class _Rounded(Derived):
    """Tensors as they will be stored: in the dtypes that they are said to have."""

    def load(self, name: str) -> Tensor:
        return super().load(name).to(self.info(name).dtype)
