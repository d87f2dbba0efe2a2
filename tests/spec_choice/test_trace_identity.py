"""What decides whether a kept trace answers a request, and where it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec_choice import trace_cache, trace_identity
from rebasin_cli.spec_choice.trace_format import TracedModel
from rebasin_cli.spec_choice.trace_identity import trace_digest
from rebasin_cli.tracer.trace import trace

MonkeyPatch = pytest.MonkeyPatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    return tmp_path


def newer(patch: MonkeyPatch, package: str) -> None:
    before = metadata.version
    patch.setattr(metadata, "version", lambda name: "99" if name == package else before(name))


CHANGES: dict[str, Callable[[MonkeyPatch, Path], object]] = {
    "torch": lambda patch, _: patch.setattr(torch, "__version__", "99"),
    "this package": lambda patch, _: patch.setattr(trace_identity, "__version__", "99"),
    "its sources": lambda patch, _: patch.setattr(trace_identity, "OURS", ("trace",)),
    "transformers": lambda patch, _: newer(patch, "transformers"),
    "diffusers": lambda patch, _: newer(patch, "diffusers"),
    "the configuration": lambda _, folder: (folder / "config.json").write_text("{}"),
}


@pytest.mark.parametrize("target", ["hf:{}", "diffusers:{}", "{}"])
@pytest.mark.parametrize("change", CHANGES)
def test_another_version_is_another_request(
    folder: Path, monkeypatch: MonkeyPatch, change: str, target: str
) -> None:
    tracing = Tracing(target=target.format(folder))
    before = trace_digest(tracing)
    assert trace_digest(tracing) == before
    CHANGES[change](monkeypatch, folder)
    assert trace_digest(tracing) != before


@pytest.mark.parametrize("home", ["", "relative/cache"])
def test_a_relative_folder_of_caches_is_ignored(
    tmp_path: Path, monkeypatch: MonkeyPatch, home: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = trace(subject_of(nn.Linear(2, 3)))
    net = TracedModel("net", found, found.spec, {}, ())
    trace_cache.keep("key", net)
    assert [path.name for path in tmp_path.rglob("*.json")] == ["key.json"]
    assert (tmp_path / "home" / ".cache" / "rebasin" / "key.json").is_file()
    again = trace_cache.find("key")
    assert again is not None and again.name == "net"
