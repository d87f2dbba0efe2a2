"""Repositories of the Hugging Face hub, as folders of its cache."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any

from rebasin_cli.checkpoint.endings import ENDINGS, INDEX_ENDING, WEIGHT_ENDINGS, is_weight_name
from rebasin_cli.checkpoint.failures import reading
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.checkpoint.remote.stores import optional_package
from rebasin_cli.checkpoint.strict_json import parse_object
from rebasin_cli.errors import CheckpointError, MachineError, RebasinError, UsageError

# A revision holds no slash but in the names that the hub has for proposed changes.
_REPOSITORY = re.compile(
    r"(?P<repo>[^/@]+(?:/[^/@]+)?)(?:@(?P<revision>refs/pr/\d+|[^/@]+))?(?:/(?P<inside>[^@]+))?"
)
# The same weights once more, as their makers' own programs read them.
_TWICE = "consolidated*"
# What trainers leave beside the weights.
_STATES = ("training_args*", "optimizer*", "scheduler*", "scaler*", "rng_state*", "random_states*")
_LOGIN = "HF_TOKEN, or `hf auth login`, says who you are"

# snapshot_download of one repository: its folder, and by `allow_patterns` and the like what of it.
Download = Callable[..., str]


@dataclass(frozen=True)
class HubName:
    """What a URL of the hub names. revision: None is the main one. inside: a path in it."""

    repo: str
    revision: str | None
    inside: str


def hub_name(url: RemotePath) -> HubName:
    """Return what `hf://org/name@revision/path` names. Raises UsageError."""
    found = _REPOSITORY.fullmatch(url.inside)
    if not found:
        raise UsageError(f"{url} names no repository", hint="hf://ORG/NAME, hf://ORG/NAME@REVISION")
    return HubName(found["repo"], found["revision"], found["inside"] or "")


def snapshot_of(url: RemotePath) -> Path:
    """Return the folder or file of the hub's cache for a URL, after what it lacks was fetched.

    That is all small files of the repository, and the weights of the one model that is meant. The
    variables of huggingface_hub count; without a network the cache is taken as it is.
    """
    name = hub_name(url)
    hub = optional_package("huggingface_hub", "hub")
    download = partial(hub.snapshot_download, name.repo, revision=name.revision)
    with _fetching(url, name):
        snapshot = Path(_small_files(download))
        place = snapshot / name.inside
        if is_weight_name(place.name) and not place.name.endswith(INDEX_ENDING):
            download(allow_patterns=[escape(name.inside)])
            return place
        folder = place.parent if place.name.endswith(INDEX_ENDING) else place
        _fetch_weights(download, folder, folder.relative_to(snapshot).as_posix())
    return place


def _small_files(download: Download) -> str:
    incomplete = optional_package("huggingface_hub.errors", "hub").LocalEntryNotFoundError
    try:
        return download(ignore_patterns=[f"*{ending}" for ending in WEIGHT_ENDINGS])
    except incomplete:
        # Other programs have fetched no more than they needed: what is there may do.
        return download(allow_patterns=["config.json"], local_files_only=True)


def _fetch_weights(download: Download, folder: Path, inside: str) -> None:
    """Fetch the shards of an index, else the safetensors files, else those of PyTorch."""
    start = "" if inside == "." else f"{escape(inside)}/"
    shards = _shards(folder)
    if shards:
        download(allow_patterns=[f"{start}{escape(shard)}" for shard in shards])
        return
    below = f"{start}*/*"
    download(allow_patterns=[f"{start}*.safetensors"], ignore_patterns=[below, f"{start}{_TWICE}"])
    if not any(folder.glob("*.safetensors")):
        patterns = [f"{start}*{ending}" for ending in ENDINGS]
        skipped = [below, *(f"{start}{state}" for state in _STATES)]
        download(allow_patterns=patterns, ignore_patterns=skipped)


def _shards(folder: Path) -> Sequence[str]:
    """Return the names of the shards in the index of a folder; of two indexes the safetensors'."""
    indexes = [path for path in folder.glob(f"*{INDEX_ENDING}") if is_weight_name(path.name)]
    for index in sorted(indexes, key=lambda path: (".safetensors" not in path.name, path.name)):
        with reading(index):
            data = index.read_bytes()
        shards = parse_object(data, where=str(index), what="the index").get("weight_map")
        if isinstance(shards, dict):
            return sorted({PurePosixPath(str(shard)).as_posix() for shard in shards.values()})
    return ()


@contextmanager
def _fetching(url: RemotePath, name: HubName) -> Iterator[None]:
    """Turn failures of the hub into ours, and let it show its progress on a terminal at most."""
    bars: Any = optional_package("huggingface_hub.utils", "hub")
    log = logging.getLogger("huggingface_hub")
    level, drawn = log.level, not bars.are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    if drawn and not sys.stderr.isatty():
        bars.disable_progress_bars()
    try:
        yield
    except RebasinError:
        raise
    except Exception as error:  # of its own, and of the library that it reaches the network with
        raise _failure(url, name, error) from error
    finally:
        log.setLevel(level)
        if drawn:
            bars.enable_progress_bars()


def _failure(url: RemotePath, name: HubName, error: Exception) -> RebasinError:
    kinds: Any = optional_package("huggingface_hub.errors", "hub")
    where = str(url)
    if isinstance(error, kinds.GatedRepoError):
        hint = f"accept its terms at https://huggingface.co/{name.repo}; {_LOGIN}"
        return MachineError("access to this repository is restricted", where=where, hint=hint)
    if isinstance(error, kinds.RepositoryNotFoundError):
        hint = f"if it is private: {_LOGIN}"
        return CheckpointError("the hub shows no such repository", where=where, hint=hint)
    if isinstance(error, kinds.RevisionNotFoundError):
        return CheckpointError(f"it has no revision {name.revision!r}", where=where)
    if isinstance(error, kinds.HFValidationError):
        return UsageError("not a name of a repository", where=where, detail=str(error))
    if isinstance(error, kinds.LocalEntryNotFoundError | kinds.OfflineModeIsEnabled):
        what = "not all of it is in the hub's cache, and the hub cannot be reached"
        hint = "check the network, HF_HUB_OFFLINE, and HF_HOME, where the cache is"
        return MachineError(what, where=where, hint=hint)
    said = f"{type(error).__name__}: {error}".strip(": ")
    return MachineError(f"cannot read: {said}", where=where, hint="check the network")
