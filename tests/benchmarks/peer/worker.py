"""Match pairs of models with rebasin 0.0.47 of PyPI, by its documented interface: worker.py JOBS.

JOBS is a JSON file, a list of jobs: `network` (widths of a perceptron, or a name in models.py),
`folder` (of models.py), `models` (two safetensors files), `seed`, `aligned` (where to write the
second model) and `found` (where to write CPU seconds, and the peak in bytes before and after).
Every job runs in a process of its own, forked from this one, after a small match. A program for
the environment that the benchmark makes: it imports nothing of this repository.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TOOL = importlib.import_module("rebasin")
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which the kernel counts a peak
SMALL = (8, 16, 16, 4)
TIED = "lm_head.weight"  # stored once, under another name
Job = Mapping[str, Any]


def network(job: Job) -> nn.Module:
    if isinstance(job["network"], list):
        return sequential(job["network"])
    sys.path.append(job["folder"])
    model: nn.Module = importlib.import_module("models").build(job["network"])
    return model


def sequential(widths: Sequence[int]) -> nn.Module:
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def loaded(job: Job, path: str) -> nn.Module:
    model = network(job).eval()
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    if unexpected or set(missing) - {TIED}:
        sys.exit(f"{path}: missing {missing}, unexpected {unexpected}")
    return model


def inputs(job: Job) -> Tensor:
    """Return something that the network eats: the tool traces it."""
    if isinstance(job["network"], list):
        return torch.randn(2, job["network"][0])
    if "gpt" in job["network"]:
        return torch.zeros(2, 64, dtype=torch.long)
    return torch.randn(2, 1, 28, 28)


def matched(a: nn.Module, b: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the CPU seconds of tracing and of matching; the second model is permuted in place."""
    began = time.process_time()
    search = TOOL.PermutationCoordinateDescent(a, b, example)
    traced = time.process_time()
    search.rebasin()
    return {"traced": traced - began, "cpu": time.process_time() - traced}


def run(job: Job) -> None:
    """Do one job in this process."""
    matched(sequential(SMALL), sequential(SMALL), torch.randn(2, SMALL[0]))
    a, b = (loaded(job, path) for path in job["models"])
    example = inputs(job)
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    before = peak()
    found = {**matched(a, b, example), "before": before, "peak": peak()}
    stored = load_file(job["models"][1])
    aligned = {name: v.contiguous() for name, v in b.state_dict().items() if name in stored}
    save_file(aligned, job["aligned"])
    Path(job["found"]).write_text(json.dumps(found), "utf-8")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    for job in json.loads(jobs.read_text("utf-8")):
        process = context.Process(target=run, args=(job,))
        process.start()
        process.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
