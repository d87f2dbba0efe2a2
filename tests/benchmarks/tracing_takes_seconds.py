"""Claim: a model of a library is traced and proved in seconds, most of which it runs itself.

CPU seconds of a whole process on one thread that traces a model of torchvision with random weights,
and their shares in percent. "start": Python, torch and this package. "library": importing
torchvision. "inputs": looking for two that the model accepts. "record": the pass that is recorded.
"axes": the symmetry that follows. "first": making it float64, and its outputs before. "permuted":
the proof, all groups at once. "use": whether outputs depend on each group. "classes": rotations.
"templates": writing the spec short. "rest": building the model, and everything else. The short form
traces three; --full fourteen.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

import torch

from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec_choice import target_tracing
from rebasin_cli.tracer import model_trace, trace
from rebasin_cli.tracer.proof import prove_trace
from rebasin_cli.tracer.proof.proof import Trial
from tests.benchmarks.bed.clock import Clock, Place
from tests.benchmarks.bed.tables import Row, number, table

PLACES: Mapping[str, Sequence[Place]] = {
    "library": [(target_tracing, "subject_for")],
    "inputs": [(trace, "_examples")],
    "record": [(trace, "record")],
    "axes": [(trace, "derive_symmetry")],
    "first": [(prove_trace, "_trial")],
    "permuted": [(Trial, "difference"), (Trial, "keeps")],
    "use": [(Trial, "notices"), (prove_trace, "unmoved_groups")],
    "classes": [(prove_trace, "prove_classes")],
    "templates": [(model_trace, "compress"), (prove_trace, "compress_trace")],
}
HEADS = ("model", "CPU s", "start", *PLACES, "rest")
SHORT = ("mobilenet_v3_large", "resnet50", "swin_t")
FULL = ("resnet101", "regnet_y_400mf", "googlenet", "inception_v3", "densenet121",
        "efficientnet_b0", "convnext_small", "vgg19", "vit_b_16", "maxvit_t", "s3d")  # fmt: skip


def traced(name: str) -> tuple[float, list[float]]:
    """Return the CPU seconds of this process at the end, and those of its stages."""
    torch.set_num_threads(1)
    start, clock = time.process_time(), Clock()
    with clock.on(PLACES):
        target_tracing.trace_target(Tracing(target=f"torchvision:{name}", cache=False))
    whole = time.process_time()
    parts = [start, *clock.spent.values()]
    return whole, [*parts, whole - sum(parts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="fourteen models")
    names = (*SHORT, *FULL) if parser.parse_args().full else SHORT
    if importlib.util.find_spec("torchvision") is None:
        print("torchvision is not installed")
        return
    rows: list[Row] = []
    seconds = []
    for name in names:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            whole, parts = pool.submit(traced, name).result()
        seconds.append(whole)
        rows.append((name, number(whole, 1), *(number(100 * x / whole, 0) for x in parts)))
    print(table(HEADS, rows))
    print(f"\nmedian {median(seconds):.1f} CPU seconds, most {max(seconds):.1f}")


if __name__ == "__main__":
    main()
