"""A trace in plain words and as fields of an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rebasin_cli.commands.spec.trace.explain import explain_trace, moving_groups, tensors_with
from rebasin_cli.commands.spec.trace.plan import Traced
from rebasin_cli.commands.spec.trace.traced_text import idle_tensors, unproved_text
from rebasin_cli.presentation.presenter import Presenter, Presenters
from rebasin_cli.symmetry.fold_plan import can_rotate
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.wording import AND_SO_ON, count, list_names

NAMED = 4  # tensors named in a sentence


def is_validated(trace: Trace) -> bool:
    """Return whether running the model confirmed the trace."""
    return trace.proof is not None and trace.proof.holds


def trace_fields(outcome: Traced) -> dict[str, Any]:
    """Return the fields of the event."""
    trace, proof = outcome.trace, outcome.trace.proof
    return {
        "target": outcome.target,
        "name": trace.spec.name,
        "groups": [
            {
                "name": g.name,
                "size": g.size,
                "per": list(g.parents),
                "fixed": g.fixed,
                "maps": g.maps,
                "tensors": tensors_with(trace, g.name),
            }
            for g in trace.bound.groups.values()
        ],
        "share": trace.share,
        "validated": is_validated(trace),
        "doubt": trace.doubt.why if trace.doubt else None,
        "max_difference": proof.difference if proof else None,
        "examples": proof.examples if proof else 0,
        "permuted_only": dict(trace.reasons),
        "refuted": dict(proof.refuted) if proof else {},
        "outputs": list(trace.outputs),
        "unused": list(trace.unused),
        "decided": list(trace.decided),
        "unknown": list(trace.unknown),
        "fixed": [
            {"tensor": f.tensor, "axis": f.axis, "size": f.size, "reason": f.reason, "soft": f.soft}
            for f in trace.fixed
        ],
        "spec": outcome.text,
        "seconds": outcome.seconds,
    }


def traced_summary(outcome: Traced) -> str:
    """Return what a person wants to know of a trace beside the spec."""
    return "\n".join(_sentences(outcome))


def _sentences(outcome: Traced) -> Iterator[str]:
    trace = outcome.trace
    groups = len(moving_groups(trace))
    what = f"{count(groups, 'group')} {'moves' if groups == 1 else 'move'}"
    yield (
        f"{outcome.target} traced: {what} {100 * trace.share:.2f} % of its "
        f"values, {_proof_sentence(trace)}, {outcome.seconds:.1f} s"
    )
    refuted = trace.proof.refuted if trace.proof else {}
    yield from (f"  group {name!r} {what}" for name, what in refuted.items())
    if can_rotate(trace.bound):
        norms = len(trace.explicit.norms)
        folded = f", once {count(norms, 'gain')} {'is' if norms == 1 else 'are'} folded" * (
            norms > 0
        )
        yield f"  its stream may be rotated{folded}: align --symmetry orthogonal"
    if trace.decided:
        yield f"  {unproved_text(trace)}"
    for fate, names in idle_tensors(trace).items():
        shown = list_names(names, NAMED, rest=AND_SO_ON)
        yield f"  {count(len(names), 'tensor')} not exercised, and so {fate}: {shown}"
    if buffers := _buffers(trace):
        shown = list_names(buffers, NAMED, rest=AND_SO_ON)
        yield f"  buffers that keep units in place: {shown}. --permute-buffer GLOB moves them along"
    if trace.unknown:
        yield f"  operators without a rule: {', '.join(trace.unknown)}"
    if outcome.written:
        yield f"  spec written to {outcome.written.path}"


def _buffers(trace: Trace) -> list[str]:
    """Return the stored tables of numbers that units of other tensors stay for."""
    others = [axis for axis in trace.fixed if axis.tensor not in trace.explicit.buffers]
    reasons = dict.fromkeys(axis.reason for axis in others)
    names = [reason.removeprefix("buffer ") for reason in reasons if reason.startswith("buffer ")]
    return [name for name in names if name in trace.infos and trace.infos[name].floating]


def _proof_sentence(trace: Trace) -> str:
    proof = trace.proof
    if proof is None:
        return f"not validated: {trace.doubt.why}" if trace.doubt else "not validated"
    if not proof.holds:
        return f"NOT VALIDATED: permuting them moves its outputs by {proof.difference:.1e}"
    inputs = count(proof.examples, "input")
    inputs += ", made small" if proof.on_small else ""
    return f"validated on {inputs} (largest difference {proof.difference:.1e})"


def printed_text(outcome: Traced) -> str:
    """Return what stdout gets: the tables if they are wanted, else the file's path or the spec."""
    if outcome.explain:
        return explain_trace(outcome.trace)
    return str(outcome.written.path) if outcome.written else outcome.text.rstrip("\n")


PRESENTERS: Presenters = {
    Traced: Presenter(
        fields=trace_fields,
        text=printed_text,
        summary=traced_summary,
        written=lambda outcome: outcome.written,
    )
}
