"""The plan of `rebasin prune`: which weights of a checkpoint, by which rule, written where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.prune.command import PruneRequest
from rebasin_cli.commands.prune.fisher.plan import (
    FISHER_METHODS,
    FisherPlan,
    check_blocks,
    plan_fisher,
)
from rebasin_cli.commands.prune.neighbour_pattern import NeighbourPattern, parse_pattern
from rebasin_cli.commands.prune.thresholds import METHODS
from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import describe_inputs, open_models
from rebasin_cli.files.output_names import own_target
from rebasin_cli.files.targets import Target, describe_target
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.renormalization import Renormalization
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import Selection
from rebasin_cli.renormalization.plan import CorrectionPlan, plan_correction

METHOD_NAMES = (*METHODS, *FISHER_METHODS)


@dataclass(frozen=True)
class PrunePlan:
    """All that `run_prune` needs.

    names: the tensors that are pruned, in the file's order. pattern: None where a share is pruned.
    fisher: what judges the weights, None if their size does. correction: of the statistics
    afterwards, None if they stay as they are.
    """

    model: Checkpoint
    names: tuple[str, ...]
    pattern: NeighbourPattern | None
    fisher: FisherPlan | None
    correction: CorrectionPlan | None
    target: Target
    machine: Machine
    request: PruneRequest

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "command": "prune",
            "inputs": describe_inputs([self.model]),
            "method": self.request.method,
            "sparsity": self.request.sparsity,
            "pattern": self.request.pattern,
            "fisher": self.fisher.describe() if self.fisher else None,
            "tensors": list(self.names),
            "weights": sum(self.model.info(name).numel for name in self.names),
            "renormalize": self.correction.describe() if self.correction else None,
            "outputs": [describe_target(self.target)],
        }


def plan_prune(request: PruneRequest) -> PrunePlan:
    """Return what pruning a checkpoint will do; nothing is read but headers.

    Raises UsageError for a share that is none, an unknown method, or if no tensor has weights.
    """
    pattern = _pattern(request)
    if request.method not in METHOD_NAMES:
        hint = suggest(request.method, METHOD_NAMES) or " or ".join(METHOD_NAMES)
        raise UsageError(f"no method is called {request.method!r}", hint=hint)
    check_blocks(request)
    machine = plan_machine(request.computing, Search())
    (model,) = open_models([request.model], request.selection)
    refuse_codes([model], request.selection, done="pruned")
    names = weight_names(model, request.selection)
    return PrunePlan(
        model=model,
        names=names,
        pattern=pattern,
        fisher=_fisher(model, names, request),
        correction=_correction(model, request),
        target=own_target(model, request.selection, request.output, word="pruned"),
        machine=machine,
        request=request,
    )


def _pattern(request: PruneRequest) -> NeighbourPattern | None:
    """Return the pattern, None for a share. Raises UsageError unless it is one of the two."""
    share = request.sparsity
    if (share is None) == (request.pattern is None):
        raise UsageError(
            "--sparsity and --pattern exclude each other"
            if request.pattern
            else "nothing says how much is pruned",
            hint="--sparsity 0.8 sets four of five to zero; --pattern 2:4 two of every four",
        )
    if share is not None and not 0 < share < 1:
        raise UsageError(
            f"--sparsity {share:g} is no share of the weights",
            hint="0.8 sets four of five to zero: a number between 0 and 1",
        )
    return parse_pattern(request.pattern) if request.pattern is not None else None


def _fisher(model: Checkpoint, names: tuple[str, ...], request: PruneRequest) -> FisherPlan | None:
    if request.method not in FISHER_METHODS:
        return None
    return plan_fisher(model, names, request)


def _correction(model: Checkpoint, request: PruneRequest) -> CorrectionPlan | None:
    """Return how the pruned model is corrected: all of it, whatever was pruned."""
    renormalize = request.renormalize
    if renormalize is None:
        runs = request.tracing.target is not None or request.data.data is not None
        if runs and request.method not in FISHER_METHODS:
            raise UsageError(
                "--model and --data say nothing to pruning by magnitude",
                hint="--renormalize reset, repair or rescale runs the model afterwards; --method "
                "block-fisher before",
            )
        return None
    return plan_correction(
        model,
        request.selection.all_tensors,
        request.tracing,
        request.data,
        Renormalization(renormalize),
    )


# Of tensors with two or more axes, what no layer multiplies its inputs by: tables of embeddings
# and positions, class tokens, norms over several axes, biases and masks. A file has only names.
_PLAIN = re.compile(r"norm|bias|mask|(^|[._])(cls|ln|bn)([._\d]|$)")


_TABLE = re.compile(r"emb|token|(^|[._])(wte|wpe|pos)([._]|$)")


_CONVOLUTION = 4  # axes from which a name with `embed` in it is a layer: patch_embed.proj


def weight_names(model: Checkpoint, selection: Selection) -> tuple[str, ...]:
    """Return the floating tensors of two or more axes that are weights of layers, each once.

    --only decides by itself what is a weight. Raises UsageError if nothing is left.
    """
    arrays = [n for n in model.names() if model.info(n).floating and len(model.info(n).shape) > 1]
    names = tuple(
        name
        for name in arrays
        if name not in model.ties
        and selection.selects(name)
        and (selection.only or all(_weight(each, model) for each in _called(name, model)))
    )
    if not any(model.info(name).numel for name in names):
        raise UsageError(
            "there is no weight to prune",
            hint="a weight is a floating tensor of two or more axes that is no table of "
            "embeddings; --only GLOB prunes those that it names",
        )
    return names


def _called(name: str, model: Checkpoint) -> list[str]:
    """Return all names of a tensor: of an output tied to a table, one says so."""
    return [name, *(alias for alias, first in model.ties.items() if first == name)]


def _weight(name: str, model: Checkpoint) -> bool:
    """Return whether a tensor is what a layer multiplies its inputs by, as far as names tell."""
    lower = name.lower()
    table = _TABLE.search(lower) and len(model.info(name).shape) < _CONVOLUTION
    return not (_PLAIN.search(lower) or table)
