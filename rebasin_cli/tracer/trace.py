"""Trace a model: record it, derive its spec, and prove that by running the model permuted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.nn.parameter import is_lazy

from rebasin_cli.errors import MachineError, UsageError
from rebasin_cli.models.subject import Subject, without_memory
from rebasin_cli.spec.language.tensor_names import INDEX_IN_NAME
from rebasin_cli.tracer.classes.findings import ClassFindings
from rebasin_cli.tracer.classes.proved_classes import with_classes
from rebasin_cli.tracer.derivation.unit_symmetry import Choices, derive_symmetry
from rebasin_cli.tracer.model_trace import (
    Trace,
    compress_trace,
    trace_before_proof,
    without_classes,
)
from rebasin_cli.tracer.proof.prove_trace import prove_trace
from rebasin_cli.tracer.proof.random_numbers import randomise
from rebasin_cli.tracer.proof.unproved import (
    OTHER_COPY,
    TOO_LARGE,
    of_copy,
    of_idle_copy,
    same_but_sizes,
)
from rebasin_cli.tracer.recording.capture import Arguments, attempt, record, record_fake
from rebasin_cli.tracer.recording.reach import record_reaching
from rebasin_cli.tracer.recording.record import Record
from rebasin_cli.tracer.recording.training_calls import TrainingCall

REAL = 1 << 27  # parameters: models up to this size are run for real
LARGEST = 1 << 28  # and up to this size, where there is no small copy to run instead
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)


def trace(
    subject: Subject,
    choices: Choices | None = None,
    *,
    recorded: int = 1,
    training: bool = True,
) -> Trace:
    """Return the symmetry of a model, proved by running it permuted.

    recorded: how many of the examples are recorded, their constraints joined; all serve the proof.
    training: whether a model of which these leave something out is called in training mode too.
    Models of up to `REAL` parameters are built and run. Of larger ones only the operators are
    recorded, without memory for their tensors, and the proof is that of `subject.small`, if that
    has the same spec but for sizes. Raises what the model raises.
    """
    choices = choices or Choices()
    with torch.no_grad():
        empty = without_memory(subject)
        _check_shapes(subject.name, empty)
        size = sum(t.numel() for t in empty.parameters()) if empty is not None else 0
        if empty is not None and size > (LARGEST if subject.small is None else REAL):
            traced = _traced_fake(subject, empty, choices, recorded)
            if traced is not None and (traced.proof is not None or size > LARGEST):
                return traced
            if size > LARGEST:
                raise MachineError(
                    f"{subject.name} has {size / 1e9:.1f} billion parameters, and which operators "
                    "it runs depends on numbers that only a real run tells",
                    hint="trace a smaller model of the class, and use its spec with --spec",
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # which experts an input reaches must not differ from run to run
            model = subject.build()
        randomise(model, torch.Generator().manual_seed(0))
        found, calls, examples = record_reaching(model, _examples(subject, model), recorded)
        claimed = derive_symmetry(found, model, choices, _name(subject))
        plain = trace_before_proof(claimed, found, model)
        more = None
        if training and plain.unused:
            more = _with_training(plain, model, (calls, examples), choices)
        return more or prove_trace(plain, claimed.derived.classes, model, examples)


def _with_training(
    plain: Trace,
    model: nn.Module,
    calls: tuple[Sequence[Arguments], Sequence[Arguments]],
    choices: Choices,
) -> Trace | None:
    """Return the trace that a call in training mode adds to, if more of the model moves then.

    calls: those recorded, and all that serve the proof. None if training needs labels, reads
    nothing more, or draws numbers for each unit.
    """
    recorded, examples = calls
    trained = TrainingCall(*examples[0])
    found = attempt(lambda: record(model, [*recorded, trained]))
    if found is None:
        return None
    claimed = derive_symmetry(found, model, choices, plain.spec.name)
    traced = trace_before_proof(claimed, found, model)
    if traced.share <= plain.share:
        return None
    traced = prove_trace(traced, claimed.derived.classes, model, [*examples, trained])
    proved = traced.proof is not None and traced.proof.holds and not traced.proof.refuted
    return replace(traced, trained=True) if proved else None


def _check_shapes(name: str, model: nn.Module | None) -> None:
    if model is not None and any(map(is_lazy, model.parameters())):
        raise UsageError(
            f"{name} has parameters without a shape until it is run (nn.LazyLinear and the like)",
            hint="name a function that builds it, runs it once on an input, and returns it",
        )


def _examples(subject: Subject, model: nn.Module) -> list[Arguments]:
    return [(example.args, example.kwargs) for example in subject.examples(model)]


def _traced_fake(
    subject: Subject, model: nn.Module, choices: Choices, recorded: int
) -> Trace | None:
    """Return the trace of a model that is not run, or None if its control flow asks for numbers."""
    examples = _examples(subject, model)
    try:
        found = record_fake(model, examples[:recorded])
    except DATA_DEPENDENT:
        return None
    small = None
    if subject.small is not None:
        small = trace(subject.small, choices, recorded=recorded)
        taught = _trained_fake(subject, examples, recorded) if small.trained else (found, model)
        if taught is None:
            small = trace(subject.small, choices, recorded=recorded, training=False)
        found, model = taught or (found, model)
    return _traced_beside(small, found, model, choices, _name(subject))


def _trained_fake(
    subject: Subject, examples: Sequence[Arguments], recorded: int
) -> tuple[Record, nn.Module] | None:
    """Return the record of a model that is trained too, and the model; None if it cannot be."""
    model = without_memory(subject)  # anew: what was recorded once is fake for good
    calls = [*examples[:recorded], TrainingCall(*examples[0])]
    if model is None:
        return None
    found = attempt(lambda: record_fake(model, calls))
    return (found, model) if found else None


def _traced_beside(
    small: Trace | None, found: Record, model: nn.Module, choices: Choices, name: str
) -> Trace:
    """Return the trace of a record; the proof is that of a small copy whose spec is the same."""
    if small is not None:  # which buffers are uniform is told by numbers, which it alone has
        choices = replace(
            choices, buffers=(*choices.buffers, *_like(small.explicit.buffers, found))
        )
    claimed = derive_symmetry(found, model, choices, name)
    traced = trace_before_proof(claimed, found, model)
    if small is None:
        return replace(compress_trace(traced), doubt=TOO_LARGE)
    if small.proof is None:
        return replace(compress_trace(traced), doubt=of_copy(small.doubt))
    with_all = _with_classes_of(small, traced, claimed.derived.classes)
    for copy, candidate in ((small, with_all), (without_classes(small), traced)):
        found_alike = compress_trace(candidate)
        if same_but_sizes(copy.spec, found_alike.spec):
            return replace(found_alike, proof=replace(small.proof, on_small=True))
    idle = [name for name in small.unused if name not in traced.unused]
    return replace(compress_trace(traced), doubt=of_idle_copy(idle) if idle else OTHER_COPY)


def _like(names: Iterable[str], found: Record) -> list[str]:
    """Return the tensors of a record that are called as some others are, but for numbers."""
    known = {INDEX_IN_NAME.sub("#", name) for name in names}
    return [name for name in found.tensors if INDEX_IN_NAME.sub("#", name) in known]


def _with_classes_of(small: Trace, traced: Trace, found: ClassFindings) -> Trace:
    """Return a trace with those classes that its small copy was proved to have."""
    kept = found.like(small.explicit).in_spec(traced.explicit)
    found_alike = traced.with_spec(with_classes(traced.explicit, kept))
    return replace(found_alike, reasons=kept.reasons)


def _name(subject: Subject) -> str:
    return subject.name.rpartition(":")[2].rpartition("/")[2] or subject.name
