"""rebasin 0.0.47 of PyPI, in an environment that is made for it and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.benchmarks.bed.networks import BENCHMARKS, FOLDER
from tests.benchmarks.bed.pairs import State

REQUIREMENTS = BENCHMARKS / "peer" / "requirements.txt"
WORKER = BENCHMARKS / "peer" / "worker.py"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rebasin" / "peers"
LONGEST = 600  # seconds for one call of the worker: it is a benchmark, not a wait


class PeerError(Exception):
    """The other tool cannot be had or does not run here; the message says why."""


@dataclass(frozen=True)
class Job:
    """Two files to match; network: a name in models.py beside the checkpoints, or widths."""

    network: str | Sequence[int]
    models: tuple[Path, Path]
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """The second model as the tool left it, CPU seconds, and bytes of memory."""

    aligned: State
    traced: float
    cpu: float
    before: int
    peak: int


def environment() -> Path:
    """Return the interpreter of the tool's environment, making that first where it is missing.

    torch, numpy and scipy are those of the caller's environment: both tools use the same ones.
    """
    wanted = REQUIREMENTS.read_text("utf-8") + sys.version + torch.__version__ + sys.prefix
    folder = CACHE / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    interpreter, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _ran([*pip, "--no-deps", "--requirement", str(REQUIREMENTS)])
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = folder / "lib" / version / "site-packages"
        (packages / "caller.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        done.touch()
    return interpreter


def answers(jobs: Sequence[Job], folder: Path) -> list[Answer | None]:
    """Return what the tool made of each job; None where it failed.

    folder: for the files in between. Raises PeerError if the tool does not run at all.
    """
    texts = [_text(job, folder, k) for k, job in enumerate(jobs)]
    plan = folder / "jobs.json"
    plan.write_text(json.dumps(texts), "utf-8")
    _ran([str(part) for part in (environment(), WORKER, plan)])
    return [_answer(text) for text in texts]


def _text(job: Job, folder: Path, number: int) -> dict[str, Any]:
    network = job.network if isinstance(job.network, str) else list(job.network)
    return {
        "network": network,
        "folder": str(FOLDER),
        "models": [str(path) for path in job.models],
        "seed": job.seed,
        "aligned": str(folder / f"aligned-{number}.safetensors"),
        "found": str(folder / f"found-{number}.json"),
    }


def _answer(text: Mapping[str, Any]) -> Answer | None:
    found = Path(text["found"])
    if not found.exists():
        return None
    return Answer(load_file(text["aligned"]), **json.loads(found.read_text("utf-8")))


def _ran(command: Sequence[str]) -> None:
    """Run a program; raise PeerError with the last line that it printed if it fails."""
    try:
        subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=LONGEST,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"stopped after {LONGEST} s") from error
    except (subprocess.CalledProcessError, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise PeerError(said[-1]) from error
