"""The signs of units in bundled specs: where models that share a spec have them alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebasin_cli.spec.language.model import (
    PERMUTATION,
    ROTARY,
    Declaration,
    Named,
    Spec,
    axes_of,
    leaves,
)
from rebasin_cli.tracer.classes.signs.signed_units import sign_groups, without_signs
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.proof.culprits import drop_groups


def permuted_spec(found: Trace) -> Spec:
    """Return a traced spec without what turns; signs, which are of one unit, have their places."""
    groups = found.explicit.groups
    turning = [name for name, said in groups.items() if said.maps.startswith(ROTARY)]
    spec = drop_groups(found.explicit, found.bound, turning)
    signs = sign_groups(spec)
    said = {
        n: declared if n in signs else replace(declared, maps=PERMUTATION)
        for n, declared in spec.groups.items()
    }
    said = {n: declared for n, declared in said.items() if declared != Declaration()}
    return replace(spec, groups=said, norms={})


def signed_alike(specs: Sequence[Spec]) -> list[Spec]:
    """Return specs without signs of units that others have with none: T5's, gated in some.

    And where no norm folds, so that nothing rotates, and nobody could ask for signs either.
    """
    signs = {name: per for spec in specs for name, per in sign_groups(spec).items()}
    apart = [
        name
        for name, per in signs.items()
        if not any(spec.norms for spec in specs)
        or any(_has(spec, per) and name not in spec.groups for spec in specs)
    ]
    return [without_signs(spec, apart) for spec in specs]


def _has(spec: Spec, group: str) -> bool:
    rows = (axes for entry in spec.tensors.values() for axes in axes_of(entry))
    return any(Named(group) in leaves(axis) for axes in rows for axis in axes)
