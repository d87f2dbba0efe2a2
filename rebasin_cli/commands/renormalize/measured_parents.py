"""Whether a file of statistics tells of the parents of a merged model."""

from __future__ import annotations

from collections.abc import Sequence

from rebasin_cli.activations.statistics_file import KEY, Statistics, statistics_in
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.renormalize.plan import RenormalizePlan
from rebasin_cli.errors import CheckpointError
from rebasin_cli.files.provenance import KEY as PROVENANCE
from rebasin_cli.json_text import read_json
from rebasin_cli.wording import listing


def measured_files(plan: RenormalizePlan) -> tuple[str | None, ...]:
    """Return the digests of the files that statistics are of, as far as they tell."""
    file = plan.correction.statistics
    if file is None or KEY not in file.metadata:
        return ()
    return tuple(own.file for own in statistics_in(file).models)


def check_measured(plan: RenormalizePlan) -> None:
    """Raise CheckpointError for statistics of other models than a merged one was made of.

    That is known of the parents that are named, else from its provenance, else it is not known.
    """
    file = plan.correction.statistics
    if file is None or KEY not in file.metadata or plan.request.tracing.trust:
        return
    statistics = statistics_in(file)
    if plan.measured:
        _check_named(statistics, plan.measured)
    else:
        _check_recorded(statistics, plan.model)


def _check_named(statistics: Statistics, parents: Sequence[Checkpoint]) -> None:
    known = [statistics.known(parent) for parent in parents]
    if statistics.are_of(*known):
        return
    others = [p for p, one in zip(parents, known, strict=True) if not statistics.tell_of(one)]
    what = "are of other models, or of these in another order"
    if others:
        what = f"are not of {listing([str(parent.path) for parent in others])}"
    raise _other_models_error(statistics, what, "rebasin apply carries them to permuted models")


def _check_recorded(statistics: Statistics, merged: Checkpoint) -> None:
    try:
        record = read_json(merged.metadata.get(PROVENANCE, "null"))
        inputs = {str(entry["sha256"]) for entry in record["inputs"]}
    except (ValueError, KeyError, TypeError):
        return  # written by others, or not at all
    if any(own.file is None for own in statistics.models):
        raise _other_models_error(
            statistics, f"tell of a model of which {merged.path} does not", _NAME_THEM
        )
    if inputs != {own.file for own in statistics.models}:
        raise _other_models_error(
            statistics, f"are not of what {merged.path} was made of", _NAME_THEM
        )
    if record.get("strategy", "none" if record.get("spec") is None else "aligned") != "none":
        raise _other_models_error(
            statistics,
            f"are of models whose units changed places as {merged.path} was made of them",
            "rebasin merge --save-parents writes them so; rebasin apply carries statistics",
        )


_NAME_THEM = "name the models that it is the mean of with --parents"


def _other_models_error(statistics: Statistics, what: str, hint: str) -> CheckpointError:
    return CheckpointError(
        f"the statistics {what}",
        where=str(statistics.path),
        hint=f"{hint}; --trust uses them all the same",
    )
