"""The spec of a traced model in the names that files have."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.stored_names import scattered_groups, stored_spec
from rebasin_cli.spec.compression.compress import compress
from rebasin_cli.spec.language.model import Declaration, Spec
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Window
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.proof.culprits import drop_groups


def saved_spec(trace: Trace, windows: Mapping[str, Window]) -> Spec:
    """Return the spec of a trace for files with these names; in the model's if that cannot be."""
    infos = {
        name: replace(trace.infos[window.source], name=name, shape=window.shape)
        for name, window in windows.items()
    }
    names = {window.source: name for name, window in windows.items()}
    ties = {names[a]: names[c] for a, c in trace.ties.items() if a in names and c in names}
    try:
        return spec_in_files(trace, windows, infos, ties=ties)
    except SpecError:
        return trace.spec


def spec_in_files(
    trace: Trace,
    windows: Mapping[str, Window],
    infos: Mapping[str, TensorInfo],
    *,
    ties: Mapping[str, str],
    fixed: Set[str] = frozenset(),
) -> Spec:
    """Return the spec of a trace for a file with these tensors, some groups of it fixed.

    Raises SpecError if the file cuts through a group.
    """
    sizes = {group.name: group.size for group in trace.bound.groups.values()}
    held = fixed | scattered_groups(trace.explicit, trace.infos, windows)
    spec = drop_groups(_declared(trace, held), trace.bound, held)
    return compress(stored_spec(spec, trace.infos, windows, sizes), infos, ties=ties)


def _declared(trace: Trace, gone: Set[str]) -> Spec:
    """Return the spec with declarations of those groups to be fixed that others lie inside of."""
    kept = {name: group for name, group in trace.explicit.groups.items() if name not in gone}
    parents = sorted(g.per for g in kept.values() if g.per is not None and g.per in gone)
    sized = {name: Declaration(size=trace.bound.groups[name].size) for name in parents}
    return replace(trace.explicit, groups={**sized, **kept})
