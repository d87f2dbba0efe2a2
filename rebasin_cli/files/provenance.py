"""Where a file came from, kept in its metadata, and what can be concluded from it.

`rebasin` is a JSON object: version, command, inputs with their SHA-256, spec, seed, and
`basin`, the SHA-256 of the reference the model was aligned to. Models of one basin need no
further alignment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rebasin_cli import __version__
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.disk import digest_files
from rebasin_cli.json_text import read_json

KEY = "rebasin"
UNTIED = "untied"  # of models with folded norms: a head that was the embedding -> its name
ALONG = "untied_along"  # of the same: embeddings that were untied with a head -> the same name


def provenance(
    command: str,
    inputs: Sequence[Checkpoint],
    *,
    basin: str | None,
    spec: str | None = None,
    seed: int = 0,
    jobs: int = 1,
    **facts: object,
) -> dict[str, str]:
    """Return the metadata entry of a result. Names only, no folders: the same everywhere.

    jobs: threads that digest the inputs.
    """
    digest_files([file for model in inputs for file in model.opened], jobs)
    record = {
        "version": __version__,
        "command": command,
        "inputs": [{"name": model.path.name, "sha256": model.sha256()} for model in inputs],
        "spec": spec,
        "seed": seed,
        "basin": basin,
        **facts,
    }
    return {KEY: json.dumps(record, sort_keys=True, separators=(",", ":"))}


def basin_of(model: Checkpoint) -> str:
    """Return the basin a model lies in: that of its provenance, or its own digest."""
    return _recorded(model.metadata) or model.sha256()


def folded_basin(model: Checkpoint) -> str:
    """Return the basin of a model with its norms folded, which averages with no unfolded one."""
    return basin_of(model) if is_folded(model) else f"{basin_of(model)} folded"


def is_folded(model: Checkpoint) -> bool:
    """Return whether a model's provenance says that its norms are folded."""
    return _record(model.metadata).get("folded") is True


def folded_facts(heads: Mapping[str, str]) -> dict[str, Any]:
    """Return what the provenance of a model with folded norms says.

    heads: those that were untied, each before the embeddings that were untied with it.
    """
    firsts = {first: name for name, first in reversed([*heads.items()])}
    own = {name: first for name, first in heads.items() if firsts[first] == name}
    along = {name: first for name, first in heads.items() if name not in own}
    return {"folded": True} | ({UNTIED: own} if own else {}) | ({ALONG: along} if along else {})


def untied_heads(model: Checkpoint) -> dict[str, str]:
    """Return the heads that were untied, by the provenance of a model -> their embeddings."""
    record = _record(model.metadata)
    told = [found for key in (UNTIED, ALONG) if isinstance(found := record.get(key), dict)]
    return {str(name): str(first) for found in told for name, first in found.items()}


def one_basin(models: Sequence[Checkpoint]) -> bool:
    """Return whether provenance proves that the models lie in one basin already.

    Digests are computed only if at least one model was aligned by `rebasin` before.
    """
    if not any(_recorded(model.metadata) for model in models):
        return False
    return len({basin_of(model) for model in models}) == 1


def one_folded_basin(models: Sequence[Checkpoint]) -> bool:
    """Return whether provenance proves the same of models whose norms are folded, all of them."""
    return all(map(is_folded, models)) and one_basin(models)


def _recorded(metadata: Mapping[str, str]) -> str | None:
    """Return the basin in a file's metadata, None if there is none or it cannot be read."""
    basin = _record(metadata).get("basin")
    return basin if isinstance(basin, str) else None


def _record(metadata: Mapping[str, str]) -> Mapping[str, object]:
    try:
        record = read_json(metadata.get(KEY, "null"))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
