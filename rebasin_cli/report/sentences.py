"""Outcomes in plain words: what goes to stdout as a result, and to stderr as talk."""

from __future__ import annotations

import json

from rebasin_cli.plan.anatomy_outcome import Anatomized
from rebasin_cli.plan.barrier_outcome import Contour, Curves, Drawn, Scored
from rebasin_cli.plan.outcome import (
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
from rebasin_cli.report.anatomy import anatomy_summary, anatomy_text
from rebasin_cli.report.barrier import (
    contour_summary,
    contour_text,
    curves_text,
    survey_summary,
)
from rebasin_cli.report.explain import explained
from rebasin_cli.report.looked import checked_text, compared_text, group_line, inspected_text
from rebasin_cli.report.matched import (
    aligned_text,
    applied_text,
    merged_text,
    verdict,
    verified_text,
)
from rebasin_cli.report.prune import prune_summary
from rebasin_cli.report.renormalize import renormalize_summary
from rebasin_cli.report.statistics import statistics_summary
from rebasin_cli.report.trace import traced_summary


def result_text(outcome: Outcome) -> str:
    """Return what a result prints on stdout: a path, or a figure where no file is left."""
    match outcome:
        case Failed() | Scored() | Drawn():
            return ""
        case Curves():
            return curves_text(outcome)
        case Contour():
            return contour_text(outcome)
        case Anatomized():
            return anatomy_text(outcome)
        case Interpolated(written=None):
            value = outcome.value
            return f"{outcome.alpha:.6f}\t{value if isinstance(value, str) else json.dumps(value)}"
        case Verified():
            return verdict(outcome)
        case Compared():
            return compared_text(outcome)
        case Inspected():
            return inspected_text(outcome)
        case Checked():
            return "\n".join(group_line(group) for group in outcome.groups)
        case Traced(explain=True):
            return explained(outcome.trace)
        case Traced(written=None):
            return outcome.text.rstrip("\n")
        case Kept():
            return str(outcome.path)
        case Renormalized():
            return str(outcome.written.path)
        case Observed():
            return str(outcome.written.path)
        case Aligned() | Applied() | Merged() | Interpolated() | Traced() | Pruned():
            return str(outcome.written.path) if outcome.written else ""
    raise TypeError(f"no text for {type(outcome).__name__}")


def summary_text(outcome: Outcome) -> str:
    """Return what a person wants to know of an outcome; empty if stdout says it all."""
    match outcome:
        case Aligned():
            return aligned_text(outcome)
        case Applied():
            return applied_text(outcome)
        case Merged():
            return merged_text(outcome)
        case Failed():
            return f"error: {outcome.error}"
        case Verified():
            return verified_text(outcome)
        case Checked():
            return checked_text(outcome)
        case Traced():
            return traced_summary(outcome)
        case Observed():
            return statistics_summary(outcome)
        case Pruned():
            return prune_summary(outcome)
        case Renormalized():
            return renormalize_summary(outcome)
        case Curves():
            return survey_summary(outcome.survey)
        case Contour():
            return contour_summary(outcome)
        case Anatomized():
            return anatomy_summary(outcome)
        case Drawn():
            return f"drawn: {outcome.written.path}"
        case Kept(why="exists"):
            return f"{outcome.path} is there already: nothing was done for it"
    return ""
