"""What is in a checkpoint, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebasin_cli.checkpoint.parts import dotted_path
from rebasin_cli.commands.inspect.plan import Inspected
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.wording import count, size_text


def inspected_text(outcome: Inspected) -> str:
    """Return what is in a checkpoint: a line for each tensor, then the totals."""
    lines = [f"{t['name']}\t{t['dtype']}\t{_shape(t)}" for t in outcome.tensors]
    lines += [f"{alias}\ttied to {name}" for alias, name in outcome.ties.items()]
    dtypes = ", ".join(f"{n} {dtype}" for dtype, n in outcome.dtypes.items())
    lines.append(
        f"{outcome.path}: {outcome.format}, {count(outcome.files, 'file')}, "
        f"{size_text(outcome.bytes)}, {count(len(outcome.tensors), 'tensor')} ({dtypes}), "
        f"{count(outcome.parameters, 'parameter')}"
    )
    lines += [f"beside the weights, {what}: {', '.join(keys)}" for what, keys in _rest(outcome)]
    fits = [name for name, verdict in outcome.fits.items() if verdict == "fits"]
    lines.append(f"spec: {', '.join(fits) if fits else 'no bundled spec fits'}")
    return "\n".join(lines)


def _rest(outcome: Inspected) -> list[tuple[str, list[str]]]:
    """Return what is beside the weights, where there is any of it."""
    rest = outcome.rest
    found = (
        ("the same tensors", [part.key for part in rest.parts]),
        ("what belongs to these weights", list(map(dotted_path, rest.stale))),
        ("other things", list(map(dotted_path, rest.harmless))),
    )
    return [(what, keys) for what, keys in found if keys]


def _shape(tensor: Mapping[str, Any]) -> str:
    return "x".join(map(str, tensor["shape"])) or "scalar"


def _inspected_fields(outcome: Inspected) -> dict[str, Any]:
    return {
        "path": str(outcome.path),
        "format": outcome.format,
        "files": outcome.files,
        "bytes": outcome.bytes,
        "parameters": outcome.parameters,
        "dtypes": dict(outcome.dtypes),
        "tensors": [dict(tensor) for tensor in outcome.tensors],
        "ties": dict(outcome.ties),
        "metadata": dict(outcome.metadata),
        "parts": [part.key for part in outcome.rest.parts],
        "stale": list(map(dotted_path, outcome.rest.stale)),
        "specs": dict(outcome.fits),
    }


PRESENTERS: Presenters = {Inspected: Presenter(fields=_inspected_fields, text=inspected_text)}
