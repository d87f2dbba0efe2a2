"""Correcting the statistics of a merged model, layer by layer, inside its own weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from rebasin_cli.activations.layer_statistics import Goal
from rebasin_cli.activations.measuring import first_of, keep_undisturbed
from rebasin_cli.activations.moments import Moments
from rebasin_cli.errors import UsageError
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.correctable_layers import (
    CorrectableLayer,
    CorrectableLayers,
    find_correctable,
)
from rebasin_cli.network.layers import Layer
from rebasin_cli.network.passes_with_room import pass_with_room
from rebasin_cli.renormalization.corrected import Corrected, CorrectionReport, CorrectionSettings
from rebasin_cli.renormalization.formulas import CORRECTORS, correction_of, repair
from rebasin_cli.renormalization.passes import (
    PassWork,
    correct_layers,
    fold_into_layer,
    refill_norm,
)

CorrectionMethod = Callable[
    [nn.Module, Mapping[str, Goal], "Batches | None", CorrectionSettings], CorrectionReport
]

_HINTS = {
    "reset": "reset recomputes the statistics of BatchNorm; `rescale` does without them",
    "closed-form": "the statistics are of another model, or were not measured as a pair",
}


def renormalize(
    model: nn.Module, goals: Mapping[str, Goal], batches: Batches | None, how: CorrectionSettings
) -> CorrectionReport:
    """Correct a merged model in place; names and shapes in its state dict stay as they are.

    goals: of the layers, from their parents; `reset` needs none. batches: not needed by
    `closed-form`, which then takes all layers that the goals name. Raises UsageError where the
    method finds nothing to correct.
    """
    report = METHODS[how.method](model, goals, batches, how)
    if not report.corrected:
        why = "\n".join(f"{layer.name}: {layer.why}" for layer in report.skipped[:5])
        hint = _HINTS.get(how.method, "")
        raise UsageError(f"{how.method} finds no layer to correct", detail=why, hint=hint)
    return report


def _reset(
    model: nn.Module, goals: Mapping[str, Goal], batches: Batches | None, how: CorrectionSettings
) -> CorrectionReport:
    """Recompute the statistics of BatchNorm layers alone."""
    sites = _sites(model, batches, how)
    skipped = tuple(skipped for skipped in sites.skipped if skipped.norm)
    return _correct_by_measuring(
        model, CorrectableLayers(sites.norms, skipped), goals, batches, how
    )


def _by_parents(
    model: nn.Module, goals: Mapping[str, Goal], batches: Batches | None, how: CorrectionSettings
) -> CorrectionReport:
    """Correct layers to their goals, and recompute the statistics of BatchNorm layers."""
    sites = _sites(model, batches, how)

    def reason(site: CorrectableLayer) -> str:
        if not site.layer.norm and site.name not in goals:
            return "nothing is known of its parents"
        idle = how.method == "reshift" and not (site.layer.norm or site.biased)
        return "it has no bias to shift" if idle else ""

    return _correct_by_measuring(model, sites.without(reason), goals, batches, how)


def _closed_form(
    model: nn.Module, goals: Mapping[str, Goal], batches: Batches | None, how: CorrectionSettings
) -> CorrectionReport:
    """Correct layers by what their parents' correlations say that the merged ones do."""
    sites = _named(model, goals, how) if batches is None else _sites(model, batches, how)

    def reason(site: CorrectableLayer) -> str:
        goal = goals.get(site.name)
        known = goal is not None and goal.expected is not None
        return "" if known else "nothing is known of how its parents correlate"

    kept = sites.without(reason)
    done = tuple(_predicted(site, goals[site.name], how) for site in kept.corrected)
    return CorrectionReport(how.method, done, kept.skipped)


METHODS: Mapping[str, CorrectionMethod] = {
    "reset": _reset,
    **dict.fromkeys(CORRECTORS, _by_parents),
    "closed-form": _closed_form,
}


def _sites(model: nn.Module, batches: Batches | None, how: CorrectionSettings) -> CorrectableLayers:
    def found(batches: Batches) -> CorrectableLayers:
        with keep_undisturbed([model]):
            return find_correctable(model, first_of(batches))

    return pass_with_room([model], _given(batches, how), found).selected(how.selects)


def _given(batches: Batches | None, how: CorrectionSettings) -> Batches:
    """Return the batches. Raises UsageError if there are none."""
    if batches is None:
        raise UsageError(f"{how.method} measures the merged model, and there is no data for that")
    return batches


def _named(
    model: nn.Module, goals: Mapping[str, Goal], how: CorrectionSettings
) -> CorrectableLayers:
    """Return the layers that the goals name."""
    modules = dict(model.named_modules())
    found = (CorrectableLayer(Layer(name, modules[name])) for name in goals if name in modules)
    return CorrectableLayers(tuple(found), ()).selected(how.selects)


def _correct_by_measuring(
    model: nn.Module,
    sites: CorrectableLayers,
    goals: Mapping[str, Goal],
    batches: Batches | None,
    how: CorrectionSettings,
) -> CorrectionReport:
    work = PassWork(model, sites.corrected, goals, how)
    done = correct_layers(work, _given(batches, how))
    return CorrectionReport(how.method, done, sites.skipped)


def _predicted(site: CorrectableLayer, goal: Goal, how: CorrectionSettings) -> Corrected:
    """Write into a layer what its parents' correlations ask for."""
    assert goal.expected is not None, "others are skipped"
    found = Moments(1, goal.mean, goal.expected.square())
    if site.layer.norm:
        return refill_norm(site, found, "statistics from those of its parents")
    wanted = replace(how.goal(goal), mean=goal.mean)
    made = correction_of(repair, found, wanted, biased=site.biased)
    return fold_into_layer(site, made, found, wanted)
