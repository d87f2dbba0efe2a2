"""A traced spec as a file: YAML below comments that say where it comes from."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

import torch

from rebasin_cli import __version__
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec_choice.trace_format import TracedModel
from rebasin_cli.tensors import dtype_name
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.wording import count, list_names

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
    if trace.decided:
        yield f"{unproved_text(trace)}."
    for fate, names in idle_tensors(trace).items():
        yield f"Not exercised, and so {fate}: {list_names(names, LISTED)}."


def unproved_text(trace: Trace) -> str:
    """Return where numbers of the run may have decided what runs."""
    lines = list_names(trace.decided, LISTED)
    return f"Its numbers may decide what runs ({lines}): what did not run is not proved"


def idle_tensors(trace: Trace) -> dict[str, list[str]]:
    """Return the tensors that no output depends on, by what becomes of them."""
    follow = list(trace.followers)
    fates = {
        "fixed": [name for name in trace.unused if name not in follow],
        "moved as others of their lists are": follow,
    }
    return {fate: names for fate, names in fates.items() if names}


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
