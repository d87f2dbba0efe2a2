"""Tracing the model that a user names: found in the cache, or recorded and proved."""

from __future__ import annotations

from torch import nn

from rebasin_cli.errors import (
    MachineError,
    RebasinError,
    SpecError,
    UsageError,
    warn,
)
from rebasin_cli.models.subject import Subject, bare_model, without_memory
from rebasin_cli.models.transformers.library_names import ignored_names, stored_windows
from rebasin_cli.models.trial_run import failure_on, quiet
from rebasin_cli.models.user.construction import cause_of
from rebasin_cli.network.network import subject_for
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec_choice import trace_cache
from rebasin_cli.spec_choice.renamed_spec import saved_spec
from rebasin_cli.spec_choice.trace_format import TracedModel
from rebasin_cli.spec_choice.trace_identity import trace_digest
from rebasin_cli.tracer.derivation.unit_symmetry import Choices, check_globs
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.proof.unproved import Doubt
from rebasin_cli.tracer.trace import REAL, trace
from rebasin_cli.wording import list_names

LISTED = 4  # names in a warning; the rest is counted
EVERY = 1 << 30  # examples: more than any user gives
ITS_INPUT = "its input"


def trace_target(tracing: Tracing) -> TracedModel:
    """Return the trace of a target, from the cache if it holds that, and keep it there.

    Raises UsageError for what cannot be built or run, MachineError for a missing package.
    """
    if not tracing.cache:
        return _trace(tracing)
    key = trace_digest(tracing)
    found = trace_cache.find(key)
    if found is None:
        found = _trace(tracing)
        trace_cache.keep(key, found)
    return found


def check_validated(found: Trace, tracing: Tracing) -> None:
    """Raise SpecError for a trace that was not proved, unless the user trusts it.

    Of what it does not say there is a warning.
    """
    if tracing.trust or (found.proof is not None and found.proof.holds):
        _warn_of_unread(found)
        return
    doubt = found.doubt or _doubt_of_moving(found)
    raise SpecError(
        f"the trace of {tracing.target} was not validated",
        detail=doubt.why,
        hint=f"{doubt.advice}; --trust uses it all the same; "
        f"`rebasin spec trace {tracing.target} --explain` shows what was found",
    )


def _warn_of_unread(found: Trace) -> None:
    """Tell of parameters that no traced call reads, and that hold or could hold units that move."""
    sizes = {group.size for group in found.bound.groups.values() if not group.fixed}
    still = [name for name in found.unused if name not in found.followers]
    left = [name for name in still if sizes & set(found.infos[name].shape)]
    guessed = "it is not proved that they move as the others in their lists do"
    for names, means in (
        (left, "a call that does would find units in another order than it"),
        (found.followers, guessed),
    ):
        if names:
            warn(
                f"no traced call reads {list_names(names, LISTED)}: {means}; --input "
                "file.py:function yields such calls"
            )


def _doubt_of_moving(found: Trace) -> Doubt:
    moved = f"{found.proof.difference:.2g} of their scale" if found.proof else "something"
    return Doubt(
        f"permuting every group moves its outputs by {moved}",
        "a model has to return the same for the same parameters and inputs",
    )


def _trace(tracing: Tracing) -> TracedModel:
    tracing.progress(f"tracing {tracing.target}", 0, 0)
    found = subject_for(tracing)
    done, model = _run(found, tracing), without_memory(found)
    if model is None:
        return TracedModel(found.name, done, done.spec, {}, ())
    windows = stored_windows(model)
    spec = saved_spec(done, windows) if windows else done.spec
    return TracedModel(found.name, done, spec, windows, ignored_names(model))


def _run(found: Subject, tracing: Tracing) -> Trace:
    choices = Choices(tracing.outputs, tracing.free_outputs, tracing.buffers)
    fed = _fed(tracing)
    hint = (
        "--input-shape 1,3,224,224 or --input file.py:function says what it takes"
        if fed == ITS_INPUT
        else "yield (inputs, targets), the inputs as the model's forward takes them: a tensor, a "
        "tuple of several, or a dict by name"
    )
    count = EVERY if tracing.inputs else 1
    return trace_subject(found, choices, recorded=count, fed=fed, hint=hint)


def trace_subject(found: Subject, choices: Choices, *, recorded: int, fed: str, hint: str) -> Trace:
    """Return the trace of a model; what it raises itself when it is run becomes UsageError.

    recorded: how many of its examples count. fed, hint: what that error calls them, and proposes.
    """
    try:
        with quiet():
            if choices.buffers:  # of a small copy they need not be: its layers are fewer
                check_globs(bare_model(found), choices.buffers)
            return trace(found, choices, recorded=recorded)
    except RebasinError:
        raise
    except MemoryError as error:
        raise MachineError(f"{found.name} does not fit into memory") from error
    except Exception as error:
        complaint = _complaint(found)
        if complaint is not None:
            raise UsageError(
                f"{found.name} does not run on {fed}", detail=cause_of(complaint), hint=hint
            ) from error
        # what torch says of an operator that takes functions; any other is a bug of ours
        operator, untraceable, _ = str(error).partition(" and mode ")
        if isinstance(error, NotImplementedError) and untraceable:
            raise UsageError(
                f"{found.name} calls an operator that no trace can follow",
                detail=operator,
                hint="trace it with another implementation of what it does (attention: 'sdpa'), or "
                "write its spec",
            ) from error
        raise


def _fed(tracing: Tracing) -> str:
    """Return what the model was run on."""
    if tracing.data is None or tracing.shape is not None or tracing.inputs:
        return ITS_INPUT
    return f"the inputs in batch 1 of {tracing.data}"


def _complaint(found: Subject) -> BaseException | None:
    """Return what a model itself raises on its inputs: if nothing, the fault is ours."""
    model = _small_enough(found)
    failures = (failure_on(model, example) for example in found.examples(model))
    return next((error for error in failures if error is not None), None)


def _small_enough(found: Subject) -> nn.Module:
    """Return the model for real, or on `meta` if it is large."""
    model = without_memory(found)
    size = sum(p.numel() for p in model.parameters()) if model else 0
    return model if model is not None and size > REAL else found.build()
