"""What a result depends on: two runs with the same circumstances write the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rebasin_cli import __version__
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.disk import OpenFile, digest_files
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.dump import dump

Circumstances = Mapping[str, Any]
"""By what a person calls it, as JSON values."""

# Options that say which results are made and where they go, what may be used and what is shown: no
# byte of one that is made depends on them. Any other counts, also one that comes later.
NOT_COUNTING = frozenset(
    {"models", "steps", "at", "endpoints", "keep", "save", "resume", "null", "display"}
    | {"out", "card", "force", "no_clobber", "in_place", "jobs", "max_memory", "check", "cache"}
    | {"executor"}
)

FILE = "file"  # of an option that names one


def circumstances(
    models: Sequence[Checkpoint], request: Any, bound: BoundSpec | None, *, jobs: int
) -> Circumstances:
    """Return what results of a request are made of. bound: the spec, if models are aligned.

    request: a dataclass, of groups of options too. Files that options name count by their content.
    """
    digest_files([file for model in models for file in model.opened], jobs)
    spec = hashlib.sha256(dump(bound.spec).encode()).hexdigest() if bound else None
    found = {
        "version of rebasin": __version__,
        "inputs": [[model.path.name, model.sha256()] for model in models],
        "spec": spec,
        **dict(_options(request, "")),
    }
    told: dict[str, Any] = json.loads(json.dumps(found))
    return told


def difference(before: Circumstances, now: Circumstances) -> str | None:
    """Return what has changed, in words; None if nothing has."""
    changed = [name for name in (*now, *before) if before.get(name) != now.get(name)]
    if not changed:
        return None
    name, old, new = changed[0], before.get(changed[0]), now.get(changed[0])
    if name == "inputs":
        return _changed_inputs(old or [], new or [])
    if name == "spec":
        return "the spec was another"
    if _value_text(old) == _value_text(new):
        return f"the file {_value_text(new)} was changed"
    return f"{name} was {_value_text(old)}, now it is {_value_text(new)}"


def _value_text(value: Any) -> str:
    named = value.get(FILE, value) if isinstance(value, dict) else value
    return named if isinstance(named, str) else json.dumps(named)


def _changed_inputs(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> str:
    if len(old) != len(new):
        return f"there were {len(old)} models, now there are {len(new)}"
    (name, _), (now, _) = next(pair for pair in zip(old, new, strict=True) if pair[0] != pair[1])
    return f"{name} was changed" if name == now else f"{now} is in the place of {name}"


def _options(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the options that count, by their names."""
    for each in fields(group):
        value = getattr(group, each.name)
        if each.name in NOT_COUNTING or not each.compare:
            continue
        if is_dataclass(value):
            yield from _options(value, f"{each.name}.")
        else:
            yield f"{prefix}{each.name}", _plain(value)


def _plain(value: Any) -> Any:
    """Return a value for JSON, with the digest of the file that it names."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, str | Path):
        digest = _digest(str(value))
        return str(value) if digest is None else {FILE: str(value), "sha256": digest}
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return [_plain(getattr(value, each.name)) for each in fields(value)]
    return value


def _digest(text: str) -> str | None:
    """Return the digest of a file that a text names, also as `file.py:name`; None if it is none."""
    for path in dict.fromkeys((Path(text), Path(text.rpartition(":")[0]))):
        with suppress(OSError, ValueError):  # what is too long to be a name
            if path.is_file():
                return OpenFile(path).sha256
    return None
