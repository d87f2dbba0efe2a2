"""What merging did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.alignment.report import agreement_fields, agreement_text, named_spec
from rebasin_cli.alignment.unit_report import before_and_after
from rebasin_cli.commands.merge.least_squares.report import solved_fields, solved_lines
from rebasin_cli.commands.merge.linear_maps.report import zip_fields, zip_lines
from rebasin_cli.commands.merge.merged import Merged
from rebasin_cli.commands.merge.preserve_first.report import preserve_fields, preserve_lines
from rebasin_cli.folding.rotation_report import ROTATING
from rebasin_cli.merging.combination import MEAN
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.presentation.written import card_lines
from rebasin_cli.renormalization.report import layer_details, report_fields, report_lines
from rebasin_cli.wording import count


def merged_text(outcome: Merged) -> str:
    """Return how models were merged."""
    lines = [f"{count(len(outcome.models), 'model')} merged{_how(outcome)}: {outcome.reason}"]
    if outcome.objective:
        change = outcome.objective
        lines.append(
            f"  inner product over all pairs {change.before:.4g} -> {change.after:.4g}, "
            f"spec {named_spec(outcome.spec or '', outcome.alike)}, "
            f"{count(outcome.rounds, 'round')}, {outcome.seconds:.1f} s"
        )
    if outcome.torn is not None:
        lines.append(
            f"  before they were reconciled, {100 * outcome.torn:.0f} % of the units did not come "
            "back to themselves around three models; now all do"
        )
    if not outcome.converged:
        lines.append("  stopped before the models came to rest; more might be gained")
    lines += [f"  each model: {agreement_text(outcome.function)}"] if outcome.function else []
    lines += merged_lines(outcome)
    lines += preserve_lines(outcome.preserved) if outcome.preserved else []
    lines += zip_lines(outcome.zipped) if outcome.zipped else []
    lines += _parent_lines(outcome)
    lines += solved_lines(outcome.solved) if outcome.solved else []
    lines += card_lines(outcome.written)
    return "\n".join(lines)


def _parent_lines(outcome: Merged) -> list[str]:
    """Return where the models went, if they were written."""
    if not outcome.parents:
        return []
    folder = outcome.parents[0].parent
    return [
        f"  {count(len(outcome.parents), 'model')} in the order that they were merged in: {folder}"
    ]


def _how(outcome: Merged) -> str:
    """Return by what method, with its numbers, if it is not the mean."""
    told = {name: outcome.combination[name] for name in ("density", "scale")}
    numbers = "".join(f", {name} {value:g}" for name, value in told.items() if value is not None)
    combine = outcome.combination["combine"]
    return "" if combine == MEAN else f" by {combine}{numbers}"


def merged_lines(outcome: Merged) -> list[str]:
    """Return what to say of the statistics of an average."""
    if outcome.report:
        return [f"  renormalized by {outcome.report.method}:", *report_lines(outcome.report)]
    if not outcome.stale:
        return []
    command = f"rebasin renormalize {outcome.written.path} --method reset --model ... --data ..."
    return [f"  BatchNorm statistics do not fit an average: {command}"]


def _merged_fields(outcome: Merged) -> dict[str, Any]:
    return {
        "models": [str(path) for path in outcome.models],
        "weights": list(outcome.weights),
        "reference": str(outcome.reference),
        **outcome.combination,
        "strategy": outcome.strategy,
        "reason": outcome.reason,
        "aligned": outcome.aligned,
        "spec": outcome.spec,
        "alike": list(outcome.alike),
        "objective": before_and_after(outcome.objective),
        "rounds": outcome.rounds,
        "converged": outcome.converged,
        "torn": outcome.torn,
        "renormalized": report_fields(outcome.report) if outcome.report else None,
        **agreement_fields(outcome.function),
        **preserve_fields(outcome.preserved),
        **zip_fields(outcome.zipped),
        "parents": [str(path) for path in outcome.parents],
        **solved_fields(outcome.solved),
        "seconds": outcome.seconds,
    }


PRESENTERS: Presenters = {
    **ROTATING,
    Merged: Presenter(
        fields=_merged_fields,
        summary=merged_text,
        details=lambda outcome: layer_details(outcome.report) if outcome.report else (),
        written=lambda outcome: outcome.written,
    ),
}
