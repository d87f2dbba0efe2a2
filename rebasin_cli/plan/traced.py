"""A traced model and a checkpoint's headers: the spec, in the names that the checkpoint uses."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.plan.automatic import NoFitError, bound_to
from rebasin_cli.plan.layouts import Layout, layout_of, missing_sources
from rebasin_cli.plan.options import Options, Tracing
from rebasin_cli.plan.saved_names import spec_in_files
from rebasin_cli.plan.traced_model import TracedModel
from rebasin_cli.plan.tracing import check_validated, traced
from rebasin_cli.spec import BoundSpec, Spec
from rebasin_cli.tensors import infos


@dataclass(frozen=True)
class Fitted:
    """A traced model, and the names under which a checkpoint holds its tensors."""

    tracing: Tracing
    known: TracedModel
    layout: Layout


def fitted(checkpoint: Checkpoint, options: Options) -> Fitted:
    """Return the model that the options name, traced, if a checkpoint is one of it.

    Raises CheckpointError if it is not.
    """
    known = traced(options.tracing)
    stored = infos(checkpoint)
    wanted = [name for name in stored if options.selects(name)]
    layout = layout_of(known, stored, wanted, str(checkpoint.path))
    return Fitted(options.tracing, known, layout)


def bound_model(checkpoint: Checkpoint, options: Options) -> tuple[BoundSpec, Fitted]:
    """Return the spec of the model that the options name, bound to a checkpoint, and the model.

    Raises SpecError for a trace that was not validated, CheckpointError for another model's
    checkpoint.
    """
    found = fitted(checkpoint, options)
    check_validated(found.known.trace, options.tracing)
    spec = spec_for(checkpoint, found.known, found.layout)
    return bound_to(spec, checkpoint, options), found


def configured(checkpoint: Checkpoint, tracing: Tracing, error: NoFitError) -> Tracing:
    """Return what to trace for a checkpoint that no bundled spec fits: its config.json says it.

    Raises the error if there is no such file, with advice if only transformers is missing.
    """
    architectures = checkpoint.config.get("architectures")
    if not (isinstance(architectures, list) and architectures):
        raise error
    if importlib.util.find_spec("transformers") is None:
        hint = f"pip install transformers: then {architectures[0]} of its config.json is traced"
        raise NoFitError(*(replace(problem, hint=hint) for problem in error.problems)) from error
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    return replace(tracing, target=f"hf:{folder}")


def spec_for(checkpoint: Checkpoint, known: TracedModel, layout: Layout) -> Spec:
    """Return the spec of a traced model for the names and the tensors of a checkpoint.

    Units that also occur in what the checkpoint lacks are fixed: elsewhere they are read in order.
    """
    trace, stored = known.trace, infos(checkpoint)
    own = all(name == window.source for name, window in layout.windows.items())
    if own and stored.keys() == trace.infos.keys():
        return trace.spec
    if layout.windows == known.windows and stored.keys() == known.windows.keys():
        return known.spec
    lost = missing_sources(layout, known, stored)
    gone = {g for t in trace.bound.tensors if lost & set(t.members) for g in t.groups}
    here = {name: window for name, window in layout.windows.items() if name in stored}
    return spec_in_files(trace, here, stored, ties=checkpoint.ties, fixed=gone)
