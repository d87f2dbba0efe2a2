"""Outcomes as JSON events: one line each, `"schema": "rebasin/1"`. Fields are never renamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from rebasin_cli.checkpoint import Written
from rebasin_cli.errors import RebasinError
from rebasin_cli.matching import Diagnosis, Matching
from rebasin_cli.plan.anatomy_outcome import Anatomized
from rebasin_cli.plan.barrier_outcome import Contour, Curves, Drawn, Scored
from rebasin_cli.plan.outcome import (
    Agreement,
    Aligned,
    Applied,
    Checked,
    Compared,
    Failed,
    Inspected,
    Interpolated,
    Kept,
    Merged,
    Outcome,
    Traced,
    Verified,
)
from rebasin_cli.plan.prune_outcome import Pruned
from rebasin_cli.plan.renormalize_outcome import Renormalized
from rebasin_cli.plan.statistics_outcome import Observed
from rebasin_cli.report.anatomy import anatomy_fields
from rebasin_cli.report.barrier import contour_fields, curves_fields, drawn_fields
from rebasin_cli.report.diagnosis import aligned_fields, present_fields, span, unit_fields
from rebasin_cli.report.learning import held_out_fields
from rebasin_cli.report.preserve import preserve_fields
from rebasin_cli.report.prune import prune_fields
from rebasin_cli.report.renormalize import renormalize_fields, report_fields
from rebasin_cli.report.statistics import statistics_fields, unseen_fields
from rebasin_cli.report.trace import trace_fields
from rebasin_cli.report.zip import zip_fields

SCHEMA = "rebasin/1"


def event_line(event: str, command: str, fields: Mapping[str, Any]) -> str:
    """Return one NDJSON line. Numbers that JSON has no word for become null."""
    record = {"schema": SCHEMA, "event": event, "command": command, **fields}
    return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False)


def result_line(outcome: Outcome) -> str:
    """Return the event of one outcome; empty for a step on the way that left no file."""
    if isinstance(outcome, Aligned) and outcome.written is None:
        return ""
    if isinstance(outcome, Failed):
        fields = {"item": str(outcome.path), **error_fields(outcome.error)}
        return event_line("error", outcome.command, fields)
    command, fields = _FIELDS[type(outcome)](outcome)
    return event_line("result", command, fields)


def error_fields(error: RebasinError) -> dict[str, Any]:
    """Return what an error event says: exit code, place, text, and every problem by itself."""
    return {
        "code": error.exit_code,
        "where": error.problems[0].where if error.problems else "",
        "message": str(error),
        "problems": [
            {"what": p.what, "where": p.where, "detail": p.detail, "hint": p.hint}
            for p in error.problems
        ],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _file(written: Written | None) -> dict[str, Any]:
    if written is None:
        return {}
    fate, card = written.fate, {"card": str(written.card)} if written.card else {}
    named = {"parts": fate.parts, "stale": fate.stale, "dropped": fate.dropped}
    return {
        "path": str(written.path),
        "bytes": written.bytes,
        "sha256": written.sha256,
        **{field: list(keys) for field, keys in named.items()},
        **card,
    }


def _groups(matching: Matching, found: Diagnosis | None) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name,
            "size": group.size,
            "units": group.units,
            "moved": group.moved,
            "fixed": group.fixed,
            "cosine": span(group.cosine),
            "gain": group.gain,
            **(unit_fields(found.groups[group.name]) if found else {}),
        }
        for group in matching.groups
    ]


def _matched(matching: Matching, found: Diagnosis | None = None) -> dict[str, Any]:
    return {
        "status": matching.status.name.lower(),
        "method": matching.method,
        "start": matching.start,
        "objective": span(matching.objective),
        "distance": span(matching.distance),
        **(aligned_fields(matching, found) if found else {}),
        **held_out_fields(matching),
        **unseen_fields(matching),
        "groups": _groups(matching, found),
    }


def _kept(outcome: Kept) -> tuple[str, dict[str, Any]]:
    return outcome.command, {"path": str(outcome.path), "status": outcome.why}


def _aligned(outcome: Aligned) -> tuple[str, dict[str, Any]]:
    return "align", {
        **_file(outcome.written),
        "model": str(outcome.model),
        "reference": str(outcome.reference),
        "spec": outcome.spec,
        "alike": list(outcome.alike),
        **_matched(outcome.matching, outcome.diagnosis),
        "untouched": outcome.untouched,
        "permutation": str(outcome.permutation.path) if outcome.permutation else None,
        **_agreement(outcome.function),
        "seconds": outcome.seconds,
    }


def _applied(outcome: Applied) -> tuple[str, dict[str, Any]]:
    return "apply", {
        **_file(outcome.written),
        "model": str(outcome.model),
        "permutation": str(outcome.permutation),
        "inverse": outcome.inverted,
        "groups": outcome.groups,
        "moved": outcome.moved,
        **_agreement(outcome.function),
    }


def _agreement(function: Agreement | None) -> dict[str, Any]:
    if function is None:
        return {"same_function": None, "output_difference": None}
    return {"same_function": function.same, "output_difference": function.difference}


def _merged(outcome: Merged) -> tuple[str, dict[str, Any]]:
    return "merge", {
        **_file(outcome.written),
        "models": [str(path) for path in outcome.models],
        "weights": list(outcome.weights),
        "reference": str(outcome.reference),
        "strategy": outcome.strategy,
        "reason": outcome.reason,
        "aligned": outcome.aligned,
        "spec": outcome.spec,
        "alike": list(outcome.alike),
        "objective": span(outcome.objective),
        "rounds": outcome.rounds,
        "converged": outcome.converged,
        "torn": outcome.torn,
        "renormalized": report_fields(outcome.report) if outcome.report else None,
        **_agreement(outcome.function),
        **preserve_fields(outcome.preserved),
        **zip_fields(outcome.zipped),
        "seconds": outcome.seconds,
    }


def _interpolated(outcome: Interpolated) -> tuple[str, dict[str, Any]]:
    exec_ = {"exec": outcome.value} if outcome.executed else {}
    return "lerp", {**_file(outcome.written), "alpha": outcome.alpha, **exec_}


def _verified(outcome: Verified) -> tuple[str, dict[str, Any]]:
    return "verify", {
        "a": str(outcome.a),
        "b": str(outcome.b),
        "spec": outcome.spec,
        "alike": list(outcome.alike),
        "permutation": outcome.exact,
        "max_difference": outcome.max_difference,
        "different": list(outcome.different),
        **_agreement(outcome.function),
        **_matched(outcome.matching),
        **_file(outcome.permutation),
    }


def _compared(outcome: Compared) -> tuple[str, dict[str, Any]]:
    return "diff", {
        "a": str(outcome.a),
        "b": str(outcome.b),
        "equal": not outcome.changes,
        "tensors": outcome.tensors,
        "distance": outcome.distance,
        "norm": outcome.norm,
        **present_fields(outcome),
        "changes": [
            {
                "name": change.name,
                "kind": change.kind,
                "detail": change.detail,
                "distance": change.distance,
                "norm": change.norm,
                "max_difference": change.max_difference,
            }
            for change in outcome.changes
        ],
    }


def _inspected(outcome: Inspected) -> tuple[str, dict[str, Any]]:
    return "inspect", {
        "path": str(outcome.path),
        "format": outcome.format,
        "files": outcome.files,
        "bytes": outcome.bytes,
        "parameters": outcome.parameters,
        "dtypes": dict(outcome.dtypes),
        "tensors": [dict(tensor) for tensor in outcome.tensors],
        "ties": dict(outcome.ties),
        "metadata": dict(outcome.metadata),
        "specs": dict(outcome.fits),
    }


def _checked(outcome: Checked) -> tuple[str, dict[str, Any]]:
    return "spec check", {
        "spec": outcome.spec,
        "model": str(outcome.model) if outcome.model else None,
        "valid": outcome.error is None,
        "groups": [
            {
                "name": g.name,
                "size": g.size,
                "per": list(g.parents),
                "fixed": g.fixed,
                "tensors": list(g.tensors),
            }
            for g in outcome.groups
        ],
        "untouched": list(outcome.untouched),
        **(error_fields(outcome.error) if outcome.error else {}),
    }


def _traced(outcome: Traced) -> tuple[str, dict[str, Any]]:
    return "spec trace", {**_file(outcome.written), **trace_fields(outcome)}


def _pruned(outcome: Pruned) -> tuple[str, dict[str, Any]]:
    return "prune", {**_file(outcome.written), **prune_fields(outcome)}


def _observed(outcome: Observed) -> tuple[str, dict[str, Any]]:
    return "statistics", {**_file(outcome.written), **statistics_fields(outcome)}


def _renormalized(outcome: Renormalized) -> tuple[str, dict[str, Any]]:
    return "renormalize", {**_file(outcome.written), **renormalize_fields(outcome)}


_FIELDS: Mapping[type, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    Kept: _kept,
    Aligned: _aligned,
    Applied: _applied,
    Merged: _merged,
    Interpolated: _interpolated,
    Verified: _verified,
    Compared: _compared,
    Inspected: _inspected,
    Checked: _checked,
    Traced: _traced,
    Pruned: _pruned,
    Renormalized: _renormalized,
    Observed: _observed,
    Scored: lambda outcome: ("barrier", outcome.fields()),
    Curves: lambda outcome: ("barrier", curves_fields(outcome)),
    Contour: lambda outcome: ("barrier", contour_fields(outcome)),
    Drawn: lambda outcome: ("barrier", drawn_fields(outcome)),
    Anatomized: lambda outcome: ("barrier", anatomy_fields(outcome)),
}
