"""The proof of a trace: run the model permuted, and with its units mapped otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rebasin_cli.errors import SpecError
from rebasin_cli.models.module_weights import widen_model, widen_tensor
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors.compare import ACCEPTED
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.classes.findings import ClassFindings
from rebasin_cli.tracer.classes.proved_classes import TracedTensors, prove_classes
from rebasin_cli.tracer.derivation.experts import (
    ExpertFamily,
    expert_families,
    routers,
    stack_experts,
)
from rebasin_cli.tracer.model_trace import Trace, compress_trace
from rebasin_cli.tracer.proof.culprits import (
    drop_groups,
    find_culprits,
    orphaned_groups,
    without_own,
)
from rebasin_cli.tracer.proof.ineffective import (
    fixed_axes,
    unmoved_groups,
    unmoved_tensors,
    without_unmoved,
)
from rebasin_cli.tracer.proof.proof import Proof, Trial, random_permutations, rotate_units
from rebasin_cli.tracer.proof.random_numbers import vary_uniform_buffers
from rebasin_cli.tracer.proof.unproved import UNMOVED, Doubt
from rebasin_cli.tracer.recording.capture import Arguments

ROUNDS = 4  # of refutation
DRAWS = 3  # orders of experts that are tried


def prove_trace(
    traced: Trace, found: ClassFindings, model: nn.Module, examples: Sequence[Arguments]
) -> Trace:
    """Return the trace with its proof; groups that break the function are dropped before.

    found: the classes of the groups as claimed, of which those stay that the outputs confirm.
    """
    vary_uniform_buffers(model, traced.bound.buffers)
    trial = _trial(traced, model, examples)
    if isinstance(trial, Doubt):
        return compress_trace(replace(traced, doubt=trial))
    refuted: dict[str, str] = {}
    for _ in range(ROUNDS):
        permutations = random_permutations(traced.bound, seed=1)
        difference = trial.difference(traced.bound, permutations)
        if difference <= ACCEPTED:
            break
        traced, more = _refuted(traced, permutations, trial)
        refuted |= more
    moved = [name for t in traced.bound.tensors if t.groups for name in t.members]
    if moved and not trial.notices(moved):
        return compress_trace(replace(traced, doubt=UNMOVED))
    traced = _with_experts(_exercised(traced, trial), trial)
    traced = _with_classes(traced, found, trial, difference)
    proof = Proof(difference, trial.dtype, len(examples), refuted)
    return compress_trace(replace(traced, proof=proof))


def _with_classes(traced: Trace, found: ClassFindings, trial: Trial, rounding: float) -> Trace:
    tensors = TracedTensors(traced.infos, traced.ties)
    spec, reasons = prove_classes(traced.explicit, found, tensors, trial, rounding)
    return replace(traced.with_spec(spec), reasons=reasons)


def _exercised(traced: Trace, trial: Trial) -> Trace:
    """Return the trace with those groups fixed that the outputs do not depend on."""
    names = unmoved_groups(trial, traced.bound)
    if not names:
        return traced
    return replace(
        traced.with_spec(without_unmoved(traced.explicit, traced.bound, names)),
        fixed=(*traced.fixed, *fixed_axes(traced.explicit, traced.bound, names)),
        unused=(*traced.unused, *unmoved_tensors(traced.bound, names)),
    )


def _with_experts(traced: Trace, trial: Trial) -> Trace:
    """Return the trace with the experts of each list as one axis of names, where that is proved."""
    for family in list(expert_families(traced.explicit, traced.infos)):
        found = routers(traced.explicit, family)
        for router in (found, *([place] for place in found if len(found) > 1)):
            stacked = _stack_family(traced, family, router) if router else None
            if stacked is not None and _proves(trial, stacked.bound, family):
                traced = stacked
                break
    return traced


def _stack_family(
    traced: Trace, family: ExpertFamily, router: Sequence[tuple[str, int]]
) -> Trace | None:
    spec = stack_experts(traced.explicit, family, router)
    try:
        return None if spec is None else traced.with_spec(spec)
    except SpecError:
        return None


def _proves(trial: Trial, bound: BoundSpec, family: ExpertFamily) -> bool:
    """Return whether experts may change places; each has to be reached by some input."""
    group = family.place.rstrip(".")
    permutations = random_permutations(bound, seed=2)
    for _ in range(min(family.count, DRAWS)):
        permutations = permutations | {group: rotate_units(permutations[group])}
        if not trial.keeps(bound, permutations):
            return False
    return all(
        any(trial.notices([family.member(index, suffix)]) for suffix in family.suffixes)
        for index in range(family.count)
    )


def _trial(traced: Trace, model: nn.Module, examples: Sequence[Arguments]) -> Trial | Doubt:
    """Return the model ready to be run, in float64 or, where that fails, in float32.

    Or why nothing can be proved on it.
    """
    doubt: Doubt | None = None
    for dtype in (torch.float64, torch.float32):
        with quiet():  # diffusers warns of modules that it would keep in float32
            widen_model(model, dtype)
        cast = [_cast(example, dtype) for example in examples]
        try:
            trial = Trial(model, cast, traced.outputs, traced.returned)
        except RuntimeError:
            if dtype == torch.float32:
                raise
            continue
        doubt = trial.doubt()
        if doubt is None:
            return trial
    assert doubt is not None
    return doubt


def _cast(example: Arguments, dtype: torch.dtype) -> Arguments:
    cast: Arguments = map_leaves(example, Tensor, lambda t: widen_tensor(t, dtype))
    return cast


def _refuted(
    traced: Trace, permutations: Mapping[str, Permutation], trial: Trial
) -> tuple[Trace, dict[str, str]]:
    """Return the trace without the groups that break the function, and the reasons.

    Of a group that holds with one permutation for all units of its parent, only the parent goes.
    """

    def breaks(some: Mapping[str, Permutation]) -> bool:
        return not trial.keeps(traced.bound, some)

    bad = find_culprits(permutations, breaks)
    parentless = [n for n in bad if permutations[n].parents and not breaks(_same(permutations, n))]
    gone = [name for name in bad if name not in parentless]
    spec = orphaned_groups(
        drop_groups(traced.explicit, traced.bound, gone), traced.bound, parentless
    )
    notes = dict.fromkeys(gone, "fixed: permuting it changes the outputs")
    notes |= dict.fromkeys(parentless, "one permutation for all indices of its parent")
    return traced.with_spec(spec), notes


def _same(permutations: Mapping[str, Permutation], name: str) -> dict[str, Permutation]:
    return {name: without_own(permutations[name])}
