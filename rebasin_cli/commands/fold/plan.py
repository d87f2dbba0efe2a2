"""The plan of `rebasin fold`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_cli.alignment.function_check import FunctionCheck, plan_function_check
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.fold.command import FoldRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import own_target
from rebasin_cli.files.provenance import is_folded
from rebasin_cli.files.targets import Target, describe_target
from rebasin_cli.folding.folded_models import check_foldable, plan_folding
from rebasin_cli.folding.settled_heads import check_tie, settle_heads
from rebasin_cli.folding.tied_heads import Heads, untied_check
from rebasin_cli.spec_choice.choice import choose_spec
from rebasin_cli.symmetry.fold_plan import FoldPlan


@dataclass(frozen=True)
class FoldingPlan:
    """All that `run_fold` needs.

    spec: its name. check: a model to run, if one is at hand. heads: that are apart after folding.
    """

    model: Checkpoint
    spec: str
    folding: FoldPlan
    target: Target
    check: FunctionCheck | None
    request: FoldRequest
    heads: Heads

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "fold",
            "inputs": describe_inputs([self.model]),
            "spec": self.spec,
            "norms": list(self.folding.norms),
            "untied": sorted(self.heads),
            "outputs": [describe_target(self.target)],
        }


def plan_fold(request: FoldRequest) -> FoldingPlan:
    """Return what folding will do; nothing is read but the header, and a tied head."""
    check_tie(request.tie)
    selection = request.selection
    (model,) = open_models([request.model], selection)
    refuse_codes([model], selection, done="multiplied")
    if is_folded(model):
        raise UsageError(f"the norms of {model.path} are folded already", hint="use it as it is")
    tracing = request.tracing.unless(selection.spec)
    choice = choose_spec([model], selection, tracing=tracing, rotated=True)
    settled = settle_heads(choice, [model], request.tie)
    (model,) = settled.models
    folding = plan_folding(settled.choice, [model])
    check_foldable(folding, choice.name)
    target = own_target(model, selection, request.output, word="folded")
    check = untied_check(
        plan_function_check(model.undivided, request, choice=choice), settled.heads
    )
    return FoldingPlan(model, choice.name, folding, target, check, request, settled.heads)
