"""What decides the result of a trace, as a digest: the same digest, the same trace.

Computed without importing a library of models: that would take longer than reading the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from rebasin_cli import __version__
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.user.imports import import_folder
from rebasin_cli.options.tracing import Tracing

CONFIGURED = ("transformers", "diffusers")  # a config.json says which of them it is for
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "hf": CONFIGURED,
    "diffusers": CONFIGURED,
}
OURS = ("tracer", "models", "spec", "tensors")  # what of this package decides it


def trace_digest(tracing: Tracing) -> str:
    """Return the digest of a request: the model's source, inputs, choices and all versions."""
    parts = [
        __version__,
        torch.__version__,
        _own_sources(),
        _version(tracing),
        *map(_place, (*tracing.inputs, *filter(None, [tracing.data]))),
        json.dumps(
            [
                tracing.target,
                dict(tracing.arguments),
                tracing.shape,
                tracing.inputs,
                tracing.data,
                tracing.outputs,
                tracing.free_outputs,
                tracing.buffers,
            ],
            sort_keys=True,
        ),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _version(tracing: Tracing) -> str:
    """Return what decides the model itself: for a user's own, the files it comes from."""
    target = tracing.target or ""
    scheme, _, rest = target.partition(":")
    packages = LIBRARIES.get(scheme)
    if (Path(target) / "config.json").is_file():
        packages, rest = CONFIGURED, target
    if packages is None:
        return _place(target) + subject_of_target(target, model_args=tracing.arguments).version
    return " ".join([*map(_installed_version, packages), _configuration(Path(rest))])


def _installed_version(package: str) -> str:
    try:
        return f"{package}={metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package}="


def _configuration(folder: Path) -> str:
    path = folder if folder.suffix == ".json" else folder / "config.json"
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _place(target: str) -> str:
    """Return where a user's object and its imports are looked up; the cache compares the files."""
    return f"{import_folder(target)} {os.environ.get('PYTHONPATH')} "


def _own_sources() -> str:
    """Return the digest of the code that traces: in a checkout it changes under one version."""
    package = Path(__file__).parents[1]
    return _digest(sorted(path for part in OURS for path in (package / part).rglob("*.py")))


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
