"""Carrying out `rebasin spec trace`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import torch

from rebasin_cli import __version__
from rebasin_cli.checkpoint.writing.writer import Written, write_text
from rebasin_cli.commands.spec.trace.plan import Traced, TracePlan, idle
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec_choice.trace_format import TracedModel
from rebasin_cli.spec_choice.traced_model import trace_target
from rebasin_cli.tensors import dtype_name
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.wording import count, list_names


def run_trace(plan: TracePlan, progress: Progress) -> Iterator[LeftAsIs | Traced]:
    """Yield the spec of a model; written to a file only if a place is planned for it."""
    if plan.place is not None and plan.place.skip:
        yield LeftAsIs(plan.place.path, "exists")
        return
    began = perf_counter()
    target = plan.tracing.target or ""
    found = trace_target(replace(plan.tracing, progress=progress))
    text = traced_text(plan.tracing, found)
    yield Traced(
        target=target,
        model=found,
        text=text,
        explain=plan.explain,
        written=_written(plan.place, text),
        seconds=perf_counter() - began,
    )


def _written(place: OutputPlace | None, text: str) -> Written | None:
    return write_text(place.path, text, overwrite=place.overwrite) if place else None


LISTED = 8  # names in a comment; the rest is counted


def traced_text(tracing: Tracing, model: TracedModel) -> str:
    """Return the spec of a model as YAML, with what was traced and how it was proved on top."""
    comments = [f"# {line}" for text in _comments(tracing, model) for line in _lines(text)]
    return "".join(f"{line}\n" for line in comments) + dump(model.spec)


def _comments(tracing: Tracing, model: TracedModel) -> Iterator[str]:
    trace = model.trace
    yield f"Traced from {_asked(tracing)} by rebasin {__version__}, torch {torch.__version__}."
    if model.windows and model.spec != trace.spec:
        yield "Tensors are called as in files that its library writes, not as in the model."
    stay = "Outputs whose units may change places" if tracing.free_outputs else "Outputs that stay"
    yield f"{stay}: {list_names(trace.outputs, LISTED)}."
    yield _validation(trace)
    if trace.proof is not None:
        yield from (f"{group}: {what}" for group, what in trace.proof.refuted.items())
    for fate, names in idle(trace).items():
        yield f"Not exercised, and so {fate}: {list_names(names, LISTED)}."


def _asked(tracing: Tracing) -> str:
    """Return the target with what the user said of it."""
    said = [f"arguments {json.dumps(dict(tracing.arguments))}"] if tracing.arguments else []
    said += [f"input shape {','.join(map(str, tracing.shape))}"] if tracing.shape else []
    said += [f"inputs {', '.join(tracing.inputs)}"] if tracing.inputs else []
    said += [f"buffers {', '.join(tracing.buffers)} movable"] if tracing.buffers else []
    return f"{tracing.target} ({'; '.join(said)})" if said else str(tracing.target)


def _validation(trace: Trace) -> str:
    proof = trace.proof
    if proof is None:
        return f"NOT VALIDATED: {trace.doubt.why}." if trace.doubt else "NOT VALIDATED."
    inputs = count(proof.examples, "input")
    inputs += ", the same architecture made small" if proof.on_small else ""
    dtype = dtype_name(proof.dtype)
    moved = f"moves the outputs by {proof.difference:.1e} of their scale ({dtype}, {inputs})."
    start = "Validated: permuting" if proof.holds else "NOT VALIDATED: permuting"
    return f"{start} every group at random {moved}"


def _lines(text: str) -> list[str]:
    # A target is text that a user typed: no line of it may leave the comment.
    return textwrap.wrap(" ".join(text.split()), 96, break_long_words=False) or [""]
