"""Whether tied heads stay tied when norms are folded: what is asked for, and what is possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError, look_up
from rebasin_cli.files.provenance import untied_heads
from rebasin_cli.folding.folded_models import MOST_TIED, plan_folding
from rebasin_cli.folding.tie_switch import with_embeddings
from rebasin_cli.folding.tied_heads import Heads, heads_of, untie_heads, untied_spec
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.norm_folding import FoldedNorms

AUTO, KEEP, UNTIE = "auto", "keep", "untie"


@dataclass(frozen=True)
class SettledHeads:
    """Models and their spec once it is settled which heads are untied. heads: those."""

    models: tuple[Checkpoint, ...]
    choice: Choice
    heads: Heads = field(default_factory=dict)


def check_tie(tie: str, *, folds: bool = True) -> None:
    """Raise UsageError for an unknown word, or one where no norm is folded."""
    look_up("way with a tied head", tie, dict.fromkeys((AUTO, KEEP, UNTIE)))
    if tie != AUTO and not folds:
        raise UsageError(
            f"--tie {tie} goes with --symmetry orthogonal alone, which folds norms",
            hint="leave it out; to choose among ways of aligning, heads have to stay tied",
        )


def untied_before(models: Sequence[Checkpoint], tie: str) -> list[Checkpoint]:
    """Return models with those heads untied that were untied in any of them when it was folded.

    Raises UsageError if they are to stay tied.
    """
    told = [(model, untied_heads(model)) for model in models]
    heads = {name: first for _, found in told for name, first in found.items()}
    untied = untie_heads(models, heads)
    if tie == KEEP and any(model.apart for model in untied):
        where = next(model.path for model, found in told if found)
        raise UsageError(
            f"{where} has a head of its own, and --tie keep ties those of the others",
            hint="leave it out, or fold the model anew",
        )
    return untied


def settle_heads(choice: Choice, models: Sequence[Checkpoint], tie: str) -> SettledHeads:
    """Return models and their spec with heads tied or untied as `tie` says.

    auto: a head is untied if in one of the models no multiple of the embedding is near enough to
    it; to see that, the embedding and the last gain are read. Raises UsageError if a head that has
    to be untied has no name, or if untying it changes more in its class.
    """
    told = {name: first for model in models for name, first in untied_heads(model).items()}
    choice = replace(choice, bound=untied_spec(choice.bound, told))
    plan = plan_folding(choice, models)
    tied = any(norm.tied for norm in plan.norms.values())
    if not tied or tie == KEEP or (tie == AUTO and _near(models, plan)):
        return SettledHeads(tuple(models), choice, told)
    try:
        heads = with_embeddings(heads_of(choice, models[0]), models)
    except UsageError:
        if tie == UNTIE:
            raise
        return SettledHeads(tuple(models), choice, told)
    bound = untied_spec(choice.bound, heads)
    untied = tuple(untie_heads(models, heads))
    return SettledHeads(untied, replace(choice, bound=bound), told | heads)


def _near(models: Sequence[Checkpoint], plan: FoldPlan) -> bool:
    return all((FoldedNorms(m, plan).tied_error() or 0) <= MOST_TIED for m in models)
