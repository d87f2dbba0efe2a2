"""What widening did, for people and for programs."""

from __future__ import annotations

from typing import Any

from rebasin_cli.commands.widen.run import Widened
from rebasin_cli.folding.fold_report import function_lines
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import count, list_names

_SHOWN = 8  # groups


def widen_fields(outcome: Widened) -> dict[str, Any]:
    """Return what a result event says besides the file."""
    function = outcome.function
    return {
        "model": str(outcome.model),
        "spec": outcome.spec,
        "groups": [
            {"name": name, "before": before, "after": after}
            for name, (before, after) in outcome.growth.sizes.items()
        ],
        "config": outcome.settings,
        "parameters": {"before": outcome.parameters[0], "after": outcome.parameters[1]},
        "output_difference": function.difference if function else None,
        "seconds": outcome.seconds,
    }


def widen_summary(outcome: Widened) -> str:
    """Return what a person wants to know."""
    sizes = outcome.growth.sizes
    told = [f"{name} {before:,} -> {after:,}" for name, (before, after) in sizes.items()]
    before, after = outcome.parameters
    lines = [
        f"{outcome.model} widened: {list_names(told, _SHOWN)}",
        f"  {after:,} parameters, {after / (before or 1):.2f} times those before; "
        f"{count(len(sizes), 'group')}, spec {outcome.spec}, {outcome.seconds:.1f} s",
    ]
    if outcome.settings:
        said = [f"{key} {value}" for key, value in outcome.settings.items()]
        lines.append(f"  config.json has to say: {list_names(said, _SHOWN)}")
    if outcome.rounded:
        lines.append("  what is scaled was rounded to the dtype of the file, and is not exact")
    return "\n".join([*lines, *(function_lines(outcome.function) or [_unproved_line(outcome)])])


def _unproved_line(outcome: Widened) -> str:
    if outcome.growth.doubts:
        name, why = next(iter(outcome.growth.doubts.items()))
        return f"  not proved, nothing was run: {name}: {why}"
    return "  nothing was run: new units do nothing as the spec has it; --model proves it"


PRESENTERS: Presenters = {
    Widened: Presenter(
        fields=widen_fields, summary=widen_summary, written=lambda outcome: outcome.written
    )
}
