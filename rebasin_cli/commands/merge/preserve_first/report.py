"""What merging all but the first layers did, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebasin_cli.commands.merge.merged import BesideEnsemble, ModelSize, Preserved


def preserve_fields(outcome: Preserved | None) -> dict[str, Any]:
    """Return the fields of a merge's event that only this method adds."""
    if outcome is None:
        return {}
    return {
        "module": str(outcome.module),
        "join": outcome.join,
        "kept": list(outcome.kept),
        "layers": outcome.layers,
        **size_fields(outcome.size, outcome.single),
        "parameters_ratio": outcome.size.parameters / (outcome.single.parameters or 1),
        "cost_ratio": outcome.cost,
        "max_difference": outcome.difference,
        **_judged_fields(outcome.judged),
    }


def size_fields(size: ModelSize, single: ModelSize) -> dict[str, Any]:
    """Return the size of a result, and of one of its parents."""
    return {
        "parameters": size.parameters,
        "flops": size.flops,
        "single": {"parameters": single.parameters, "flops": single.flops},
    }


def _judged_fields(judged: BesideEnsemble | None) -> dict[str, Any]:
    """Return scores of the result, its parents and their ensemble, or the reason for none."""
    if judged is None:
        return {}
    if judged.ensemble.reason:
        return {"scores": None, "no_ensemble": judged.ensemble.reason}
    scores = {
        "merged": dict(judged.merged),
        "models": [dict(scores) for scores in judged.models],
        "ensemble": dict(judged.ensemble.scores),
    }
    return {"scores": scores}


def preserve_lines(outcome: Preserved) -> list[str]:
    """Return what a person wants to know besides how the models were merged."""
    size, ratio = outcome.size, outcome.size.parameters / (outcome.single.parameters or 1)
    return [
        f"  {len(outcome.kept)} of {outcome.layers} layers kept of each model, up to "
        f"{outcome.kept[-1]}; joined at the input of {outcome.join}",
        f"  {size.parameters:,} parameters, {ratio:.2f} times those of one model; "
        f"a pass costs about {outcome.cost:.2f} times as much, {size.flops:,} FLOPs an input",
        f"  copies of one model compute what it does, to {outcome.difference:.1g}",
        f"  {outcome.module} builds it: --model {outcome.module}:build",
        *_judged_lines(outcome.judged),
    ]


def _judged_lines(judged: BesideEnsemble | None) -> list[str]:
    if judged is None:
        return []
    if judged.ensemble.reason:
        return [f"  not judged: {judged.ensemble.reason}"]
    models = "; ".join(_scores_text(scores) for scores in judged.models)
    ensemble = _scores_text(judged.ensemble.scores)
    return [
        f"  {_scores_text(judged.merged)}; of the models {models}; of their ensemble {ensemble}"
    ]


def _scores_text(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
