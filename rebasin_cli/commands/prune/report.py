"""What pruning did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.commands.prune.ranking import FisherFacts
from rebasin_cli.commands.prune.run import Pruned
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.renormalization.report import report_fields, report_lines
from rebasin_cli.wording import count, plural


def prune_fields(outcome: Pruned) -> dict[str, Any]:
    """Return what a result event says besides the file."""
    return {
        "model": str(outcome.model),
        "method": outcome.method,
        "sparsity": outcome.sparsity,
        "pattern": outcome.pattern,
        "fisher": vars(outcome.fisher) if outcome.fisher else None,
        "threshold": outcome.threshold,
        "weights": outcome.weights,
        "kept": outcome.kept,
        "masks": outcome.masks,
        "others": outcome.others,
        "tensors": [vars(tensor) for tensor in outcome.tensors],
        "renormalized": report_fields(outcome.report) if outcome.report else None,
        "seconds": outcome.seconds,
    }


def prune_summary(outcome: Pruned) -> str:
    """Return what a person wants to know."""
    removed = outcome.weights - outcome.kept
    share = f"{removed:,} of {outcome.weights:,} weights ({100 * removed / outcome.weights:.4g} %)"
    lines = [
        f"{outcome.model} pruned: {share} set to zero, {outcome.kept:,} kept",
        f"  {_rule(outcome)}, {_masks(outcome)}",
    ]
    if outcome.fisher:
        lines.append(f"  {_judged(outcome.fisher)}")
    if outcome.others:
        others = count(outcome.others, "other tensor")
        lines.append(f"  {others} not pruned, {outcome.seconds:.1f} s")
    if outcome.report:
        lines.append(f"  then renormalized by {outcome.report.method}, the dense model its parent")
        lines += report_lines(outcome.report)
    return "\n".join(lines)


def _rule(outcome: Pruned) -> str:
    tensors = f"{len(outcome.tensors)} {plural(len(outcome.tensors), 'tensor')}"
    judged = "the least" if outcome.fisher else "the smallest"
    if outcome.pattern:
        kept, _, group = outcome.pattern.partition(":")
        return f"at most {kept} of every {group} inputs stay in {tensors}, {judged} went"
    if outcome.threshold is None:
        return f"{judged} of each of {tensors} went"
    word = "by what removing them costs" if outcome.fisher else "together"
    return f"{judged} of {tensors} {word} went, up to {outcome.threshold:.4g}"


def _judged(fisher: FisherFacts) -> str:
    """Return what the costs of weights rest on."""
    examples = count(fisher.examples, "example")
    if fisher.block_size is None:
        return f"the diagonal of the Fisher of {examples}; the others stay as they were"
    return (
        f"blocks of up to {fisher.block_size} of the Fisher of {examples}, damped by "
        f"{fisher.damping:.3g}; the others are updated"
    )


def _masks(outcome: Pruned) -> str:
    if outcome.masks:
        return "masks in the metadata under rebasin.masks"
    return "no masks in the metadata: the zeros are the mask"


PRESENTERS: Presenters = {
    Pruned: Presenter(
        fields=prune_fields, summary=prune_summary, written=lambda outcome: outcome.written
    )
}
