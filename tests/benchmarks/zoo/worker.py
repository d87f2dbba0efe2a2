"""Trace, prove and prove again one architecture; runs in a process of its own."""

from __future__ import annotations

import importlib
import resource
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from rebasin_cli.errors import RebasinError
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.transformers.transformers_models import config_subject
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.symmetry.fold_plan import can_rotate
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.trace import trace
from tests.benchmarks.zoo import twin
from tests.benchmarks.zoo.architectures import ARGUMENTS
from tests.benchmarks.zoo.small_video import KINDS, small_video
from tests.benchmarks.zoo.verdict import Verdict, dump_verdict

# Outputs of models without a head: their units are those of a stream that may be reordered.
HIDDEN = ("last_hidden_state", "hidden_states", "feature_maps", "pooler_output")


def enter(architecture: str, path: str, limit: int) -> None:
    """Write the verdict on an architecture to a file; the process dies at its CPU limit."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    torch.set_num_threads(1)
    Path(path).write_text(dump_verdict(judge(architecture)), "utf-8")


def judge(architecture: str) -> Verdict:
    """Return the verdict on an architecture; what went wrong is part of it."""
    try:
        with quiet(), torch.no_grad():
            return _judged(architecture, zoo_subject(architecture))
    except Exception as error:  # the code of any model runs here
        return Verdict(architecture, failure=_sentence(error), seconds=_seconds(), peak=_peak())


def zoo_subject(architecture: str) -> Subject:
    """Return the subject of `torchvision:NAME`, `timm:NAME` or `transformers:MODEL_TYPE`."""
    library, _, name = architecture.partition(":")
    if name in KINDS:
        return small_video(name)
    if library != "transformers":
        return subject_of_target(architecture, model_args=ARGUMENTS.get(architecture))
    configurations: Any = importlib.import_module("tests.benchmarks.zoo.hf_list")
    found = config_subject(name, configurations.configuration(name))
    return found.small or found


def _judged(architecture: str, given: Subject) -> Verdict:
    found = trace(given)
    free = all(name.startswith(HIDDEN) for name in found.outputs)
    if free:
        found = trace(given, Choices(free_outputs=True))
    seconds, peak = _seconds(), _peak()
    if found.proof is None:
        reason = "trace: not proved: too large to be run, or its outputs are no numbers"
        return Verdict(architecture, failure=reason, seconds=seconds, peak=peak)
    return Verdict(
        architecture,
        groups=len(found.bound.groups),
        per=sum(bool(group.parents) for group in found.bound.groups.values()),
        share=found.share,
        moved=found.proof.difference,
        twin=twin.moved(given, found),
        dtype=str(found.proof.dtype).removeprefix("torch."),
        outputs=found.outputs,
        free=free,
        refuted=dict(found.proof.refuted),
        unknown=found.unknown,
        unused=found.unused,
        rotates=can_rotate(found.bound),
        why=_why(found),
        lost=_lost(found),
        seconds=seconds,
        peak=peak,
    )


def _why(found: Trace) -> str:
    """Return what holds the widest group to permutations."""
    count = Counter(group for tensor in found.bound.tensors for group in tensor.groups)
    roots = [name for name, group in found.bound.groups.items() if not group.parents]
    widest = max(roots, key=lambda name: count[name], default="")
    return found.reasons.get(widest, "")


def _lost(found: Trace) -> dict[str, float]:
    """Return the share of elements that no group moves, by reason."""
    moved = {
        name
        for tensor in found.bound.tensors
        if any(any(block.groups) for block in tensor.blocks)
        for name in tensor.members
    }
    reasons: dict[str, dict[str, None]] = {}
    for fixed in found.fixed:
        label = f"{fixed.reason} (soft)" if fixed.soft else fixed.reason
        reasons.setdefault(fixed.tensor, {})[label] = None
    lost: Counter[str] = Counter()
    every = 0
    for name, info in found.infos.items():
        if info.floating and info.numel > 1 and name not in found.ties:
            every += info.numel
            if name not in moved:
                lost["; ".join(reasons.get(name, {"a buffer": None}))] += info.numel
    return {reason: count / every for reason, count in lost.most_common(5)}


def _sentence(error: Exception) -> str:
    """Return what was raised and by which line, and whether it was found while tracing."""
    lines = traceback.extract_tb(error.__traceback__)
    tracing = any(line.filename.endswith("trace/trace.py") for line in lines)
    kind = "trace: " if tracing and not isinstance(error, RebasinError) else "model: "
    last = lines[-1]
    place = f" ({'/'.join(Path(last.filename).parts[-2:])}:{last.lineno})"
    text = " ".join(str(error).split())[:300]
    return f"{kind}{type(error).__name__}: {text}{place}"


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
