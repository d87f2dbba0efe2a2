"""Trace a model: record it, derive its spec, and prove that by running the model permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from rebasin_cli.errors import MachineError, SpecError
from rebasin_cli.models.module_weights import widen, widen_tensor
from rebasin_cli.models.subject import Subject, without_memory
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.permutation import Permutation
from rebasin_cli.spec.binding.bind import bind, one_sided_groups
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.compression.compress import compress
from rebasin_cli.spec.language.model import Entry, Spec
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.compare import ACCEPTED
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.classes.findings import ClassFindings
from rebasin_cli.tracer.classes.proved_classes import TracedTensors, prove_classes
from rebasin_cli.tracer.derivation.derive import FixedAxis
from rebasin_cli.tracer.derivation.experts import ExpertFamily, families, routers, stack_experts
from rebasin_cli.tracer.derivation.unit_symmetry import Choices, Symmetry, symmetry
from rebasin_cli.tracer.points.points import Points
from rebasin_cli.tracer.proof.culprits import (
    culprits,
    declared_one_sided,
    drop_groups,
    orphaned_groups,
    without_own,
)
from rebasin_cli.tracer.proof.ineffective import (
    fixed_axes,
    unmoved_groups,
    unmoved_tensors,
    without,
)
from rebasin_cli.tracer.proof.proof import (
    Proof,
    Trial,
    random_permutations,
    randomise,
    rotate_units,
)
from rebasin_cli.tracer.proof.unproved import (
    OTHER_COPY,
    TOO_LARGE,
    UNMOVED,
    Doubt,
    of_copy,
    of_idle_copy,
    same_but_sizes,
)
from rebasin_cli.tracer.recording.capture import Arguments, record, record_fake
from rebasin_cli.tracer.recording.record import Record

REAL = 1 << 27  # parameters: models up to this size are run for real
LARGEST = 1 << 28  # and up to this size, where there is no small copy to run instead
ROUNDS = 4  # of refutation
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)
DRAWS = 3  # orders of experts that are tried


@dataclass(frozen=True)
class Trace:
    """The symmetry of a model, and how well it is founded.

    spec: with templates where layers repeat. explicit: one entry for each tensor. infos: of all
    tensors in the state dict. ties: alias -> the name of the same tensor.
    fixed: what does not move, with reasons. unused: parameters that no output depends on.
    returned: what the axes of the outputs are made of. points: where the units of the groups that
    were found can be seen at work, in the order of a pass; a group may have been dropped since.
    classes: what may be done to the units of groups beside permuting them, and why not to others.
    proof: None if there is none. doubt: then why.
    """

    spec: Spec
    explicit: Spec
    bound: BoundSpec
    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]
    fixed: tuple[FixedAxis, ...]
    unused: tuple[str, ...]
    outputs: tuple[str, ...]
    unknown: tuple[str, ...]
    returned: Mapping[str, Entry]
    points: Points
    classes: ClassFindings
    proof: Proof | None
    doubt: Doubt | None = None

    @property
    def share(self) -> float:
        """The share of floating elements that some group moves."""
        every = sum(
            info.reals
            for name, info in self.infos.items()
            if info.floating and info.numel > 1 and name not in self.ties
        )
        moved = sum(
            block.numel
            for tensor in self.bound.tensors
            if not self.ties.keys() & set(tensor.members)
            for block in tensor.blocks
            if any(block.groups)
        )
        return moved / every if every else 0.0


def trace(subject: Subject, choices: Choices | None = None, *, recorded: int = 1) -> Trace:
    """Return the symmetry of a model, proved by running it permuted.

    recorded: how many of the examples are recorded, their constraints joined; all serve the proof.
    Models of up to `REAL` parameters are built and run. Of larger ones only the operators are
    recorded, without memory for their tensors, and the proof is that of `subject.small`, if that
    has the same spec but for sizes. Raises what the model raises.
    """
    choices = choices or Choices()
    with torch.no_grad():
        empty = without_memory(subject)
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
        examples = _examples(subject, model)
        found = record(model, examples[:recorded])
        traced = _unproved(symmetry(found, model, choices, _name(subject)), found, model)
        return _proved(traced, model, examples)


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
    traced = _unproved(symmetry(found, model, choices, _name(subject)), found, model)
    traced = _compressed(traced)
    if subject.small is None:
        return replace(traced, doubt=TOO_LARGE)
    small = trace(subject.small, choices, recorded=recorded)
    if small.proof is None:
        return replace(traced, doubt=of_copy(small.doubt))
    if not same_but_sizes(small.spec, traced.spec):
        idle = [name for name in small.unused if name not in traced.unused]
        return replace(traced, doubt=of_idle_copy(idle) if idle else OTHER_COPY)
    return replace(traced, proof=replace(small.proof, on_small=True))


def _name(subject: Subject) -> str:
    return subject.name.rpartition(":")[2].rpartition("/")[2] or subject.name


def _unproved(found: Symmetry, record_: Record, model: nn.Module) -> Trace:
    stored = model.state_dict()
    infos = {
        name: TensorInfo(name, tuple(tensor.shape), tensor.dtype)
        for name, tensor in stored.items()
        if isinstance(tensor, Tensor)
    }
    ties = _ties(record_)
    spec = found.derived.spec
    spec = declared_one_sided(spec, one_sided_groups(spec, infos, ties=ties))
    return Trace(
        spec=spec,
        explicit=spec,
        bound=bind(spec, infos, ties=ties),
        infos=infos,
        ties=ties,
        fixed=found.derived.fixed,
        unused=found.derived.unused,
        outputs=found.outputs,
        unknown=found.unknown,
        returned=found.derived.outputs,
        points=found.derived.points,
        classes=found.derived.classes,
        proof=None,
    )


def _ties(found: Record) -> dict[str, str]:
    first: dict[object, str] = {}
    ties = {}
    for name, value in found.tensors.items():
        if value in first:
            ties[name] = first[value]
        else:
            first[value] = name
    return ties


def _proved(traced: Trace, model: nn.Module, examples: Sequence[Arguments]) -> Trace:
    """Return the trace with its proof; groups that break the function are dropped before."""
    trial = _trial(traced, model, examples)
    if isinstance(trial, Doubt):
        return _compressed(replace(traced, doubt=trial))
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
        return _compressed(replace(traced, doubt=UNMOVED))
    traced = _with_experts(_exercised(traced, trial), trial)
    traced = _with_classes(traced, trial, difference)
    proof = Proof(difference, trial.dtype, len(examples), refuted)
    return _compressed(replace(traced, proof=proof))


def _with_classes(traced: Trace, trial: Trial, difference: float) -> Trace:
    tensors = TracedTensors(traced.infos, traced.ties)
    found = prove_classes(traced.explicit, traced.classes, tensors, trial, difference)
    bound = tensors.bound(found.spec)
    return replace(
        traced, explicit=found.spec, spec=found.spec, bound=bound, classes=found.findings
    )


def _exercised(traced: Trace, trial: Trial) -> Trace:
    """Return the trace with those groups fixed that the outputs do not depend on."""
    names = unmoved_groups(trial, traced.bound)
    if not names:
        return traced
    spec = without(traced.explicit, traced.bound, names)
    return replace(
        traced,
        spec=spec,
        explicit=spec,
        bound=bind(spec, traced.infos, ties=traced.ties),
        fixed=(*traced.fixed, *fixed_axes(traced.explicit, traced.bound, names)),
        unused=(*traced.unused, *unmoved_tensors(traced.bound, names)),
    )


def _compressed(traced: Trace) -> Trace:
    return replace(traced, spec=compress(traced.explicit, traced.infos, ties=traced.ties))


def _with_experts(traced: Trace, trial: Trial) -> Trace:
    """Return the trace with the experts of each list as one axis of names, where that is proved."""
    for family in list(families(traced.explicit, traced.infos)):
        found = routers(traced.explicit, family)
        for router in (found, *([place] for place in found if len(found) > 1)):
            spec = stack_experts(traced.explicit, family, router) if router else None
            bound = _bound(spec, traced) if spec is not None else None
            if bound is not None and spec is not None and _proves(trial, bound, family):
                traced = replace(traced, explicit=spec, spec=spec, bound=bound)
                break
    return traced


def _bound(spec: Spec, traced: Trace) -> BoundSpec | None:
    try:
        return bind(spec, traced.infos, ties=traced.ties)
    except SpecError:
        return None


def _proves(trial: Trial, bound: BoundSpec, family: ExpertFamily) -> bool:
    """Return whether experts may change places; each has to be reached by some input."""
    group = family.place.rstrip(".")
    permutations = random_permutations(bound, seed=2)
    for _ in range(min(family.count, DRAWS)):
        permutations = permutations | {group: rotate_units(permutations[group])}
        if trial.difference(bound, permutations) > ACCEPTED:
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
            widen(model, dtype)
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
    """Drop the groups that break the function, or their parent if that is enough."""

    def breaks(some: Mapping[str, Permutation]) -> bool:
        return trial.difference(traced.bound, some) > ACCEPTED

    bad = culprits(permutations, breaks)
    lonely = [n for n in bad if permutations[n].parents and not breaks(_same(permutations, n))]
    gone = [name for name in bad if name not in lonely]
    spec = orphaned_groups(drop_groups(traced.explicit, traced.bound, gone), traced.bound, lonely)
    notes = dict.fromkeys(gone, "fixed: permuting it changes the outputs")
    notes |= dict.fromkeys(lonely, "one permutation for all indices of its parent")
    bound = bind(spec, traced.infos, ties=traced.ties)
    return replace(traced, explicit=spec, spec=spec, bound=bound), notes


def _same(permutations: Mapping[str, Permutation], name: str) -> dict[str, Permutation]:
    return {name: without_own(permutations[name])}
