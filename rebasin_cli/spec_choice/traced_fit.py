"""A traced model and a checkpoint's headers: the spec, in the names that the checkpoint uses."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from rebasin_cli.errors import CheckpointError
from rebasin_cli.files.headers import Headers
from rebasin_cli.network.names_in_files import ModelTensors, StoredNames, layout_of, missing_sources
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec_choice.bundled import NoFitError, bound_to
from rebasin_cli.spec_choice.hints import model_hint
from rebasin_cli.spec_choice.renamed_spec import spec_in_files
from rebasin_cli.spec_choice.target_tracing import check_validated, trace_target
from rebasin_cli.spec_choice.trace_format import TracedModel
from rebasin_cli.spec_choice.unnamed import is_excused

SCHEME_OF = {"transformers": "hf", "diffusers": "diffusers"}


@dataclass(frozen=True)
class Fitted:
    """A traced model, and the names under which a checkpoint holds its tensors."""

    tracing: Tracing
    known: TracedModel
    layout: StoredNames


def fit_traced_model(headers: Headers, selection: Selection, tracing: Tracing) -> Fitted:
    """Return the model that the options name, traced, if the checkpoints are ones of it.

    Raises CheckpointError if they are not.
    """
    known = trace_target(tracing)
    wanted = [name for name in headers.infos if not is_excused(name, selection)]
    try:
        layout = layout_of(traced_tensors(known), headers.infos, wanted, headers.where)
    except CheckpointError as error:
        hint = model_hint(headers)
        if not hint or f"--model {tracing.target}" in hint:
            raise
        raise CheckpointError(*(replace(p, hint=hint) for p in error.problems)) from error
    return Fitted(tracing, known, layout)


def traced_tensors(known: TracedModel) -> ModelTensors:
    """Return the tensors of a traced model; a checkpoint needs those that move."""
    trace = known.trace
    needed = frozenset(trace.explicit.tensors)
    return ModelTensors(known.name, trace.infos, trace.ties, needed, known.windows, known.ignored)


def bound_model(
    headers: Headers, selection: Selection, tracing: Tracing
) -> tuple[BoundSpec, Fitted]:
    """Return the spec of the model that the options name, bound to a checkpoint, and the model.

    Raises SpecError for a trace that was not validated, CheckpointError for another model's
    checkpoint.
    """
    found = fit_traced_model(headers, selection, tracing)
    check_validated(found.known.trace, tracing)
    spec = spec_for(headers, found.known, found.layout)
    return bound_to(spec, headers, selection), found


def target_of_config(headers: Headers, tracing: Tracing, error: NoFitError) -> tuple[Tracing, str]:
    """Return what to trace for a checkpoint that no bundled spec fits, and the name of its class.

    Its config.json says both. Raises the error if there is no such file, with advice if only the
    library is missing.
    """
    found = class_in_config(headers)
    if found is None:
        raise error
    library, architecture = found
    if importlib.util.find_spec(library) is None:
        hint = f"pip install {library}: then {architecture} of its config.json is traced"
        raise NoFitError(*(replace(problem, hint=hint) for problem in error.problems)) from error
    return of_library(library, headers, tracing), architecture


def of_library(library: str, headers: Headers, tracing: Tracing) -> Tracing:
    """Return what traces, or runs, the model of a config.json through the library it is for."""
    return replace(tracing, target=f"{SCHEME_OF[library]}:{headers.folder}")


def spec_for(headers: Headers, known: TracedModel, layout: StoredNames) -> Spec:
    """Return the spec of a traced model for the names and the tensors of a checkpoint.

    Units that also occur in what the checkpoint lacks are fixed: elsewhere they are read in order.
    """
    trace, stored = known.trace, headers.infos
    own = all(name == window.source for name, window in layout.windows.items())
    if own and stored.keys() == trace.infos.keys():
        return trace.spec
    if layout.windows == known.windows and stored.keys() == known.windows.keys():
        return known.spec
    lost = missing_sources(layout, traced_tensors(known), stored)
    gone = {g for t in trace.bound.tensors if lost & set(t.members) for g in t.groups}
    here = {name: window for name, window in layout.windows.items() if name in stored}
    return spec_in_files(trace, here, stored, ties=headers.ties, fixed=gone)


def class_in_config(headers: Headers) -> tuple[str, str] | None:
    """Return the library and the class that a config.json names, or None if it names none."""
    single, listed = (headers.config.get(key) for key in ("_class_name", "architectures"))
    if isinstance(single, str):
        return "diffusers", single
    first = listed[0] if isinstance(listed, list) and listed else None
    return ("transformers", first) if isinstance(first, str) else None
