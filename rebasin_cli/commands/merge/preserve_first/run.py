"""Carrying out `rebasin merge --preserve-first`: a checkpoint, and the module that runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from types import ModuleType

import torch
from torch import nn

from rebasin_cli.checkpoint.writing.writer import write_text
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.commands.merge.common_frame import bring_into_frame
from rebasin_cli.commands.merge.merged import BesideEnsemble, Merged, Preserved
from rebasin_cli.commands.merge.operations import size_of
from rebasin_cli.commands.merge.preserve_first.cut import widen_example
from rebasin_cli.commands.merge.preserve_first.cut_proof import outputs_difference, outputs_of
from rebasin_cli.commands.merge.preserve_first.plan import PreservePlan
from rebasin_cli.commands.merge.run import merge_facts, merged_outcome, save_parents
from rebasin_cli.errors import CheckpointError, UserCodeError
from rebasin_cli.files.targets import DTYPES
from rebasin_cli.files.write import folder_for, write_source
from rebasin_cli.models.module_weights import fill, held_infos, held_ties, widen_model
from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.imports import import_folder
from rebasin_cli.models.user.uncached_imports import folder_importable
from rebasin_cli.network.built import batches_of, build_network, judge_of
from rebasin_cli.network.scoring.ensemble import Ensemble, judge_ensemble, why_no_ensemble
from rebasin_cli.network.user_code import users_code
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import InMemory, TensorInfo, TensorSource
from rebasin_cli.tensors.blocks import Window
from rebasin_cli.tensors.compare import SAME_IN_FLOAT64
from rebasin_cli.tensors.derived import Gathered


def run_preserve(plan: PreservePlan, progress: Progress) -> Iterator[LeftAsIs | Merged]:
    """Yield the merged model. The module is proved on copies of one parent before it is written."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began = perf_counter()
    together = bring_into_frame(plan.merge, progress)
    save_parents(plan.merge, together, progress)
    progress("checking that copies of one model compute what it does", 0, 0)
    inputs = _built(plan)
    names = _stored_names(inputs.single, plan)
    difference = _proved(plan, inputs, names)
    source = _gathered(inputs.joined, names, together.sources, together.mean)
    infos = [_output_info(source.info(name), plan.merge.request) for name in source.names()]
    progress(f"writing {plan.target.path.name}", 0, 0)
    facts = merge_facts(
        plan.merge, together, join=plan.cut.cut_point.join, kept=list(plan.cut.kept)
    )
    with folder_for(plan.module):
        written = write_source(source, infos, plan.target, {"format": "pt", **facts})
        write_text(plan.module.path, plan.text, overwrite=plan.module.overwrite)
    preserved = Preserved(
        module=plan.module.path,
        join=plan.cut.cut_point.join,
        kept=plan.cut.kept,
        layers=len(plan.cut.layers),
        size=size_of(inputs.joined, inputs.examples[0]),
        single=size_of(inputs.single, inputs.examples[0]),
        cost=plan.cut.cost(len(plan.merge.models)),
        difference=difference,
        judged=_judged(plan, inputs.joined, source, progress),
    )
    merged = merged_outcome(plan.merge, together, written, perf_counter() - began)
    yield replace(merged, preserved=preserved)


def _judged(
    plan: PreservePlan, joined: nn.Module, source: TensorSource, progress: Progress
) -> BesideEnsemble | None:
    """Return the scores of the result, the models and their ensemble; None without data."""
    if plan.code is None:
        return None
    progress("judging the models", 0, 0)
    machine, merge = plan.merge.machine, plan.merge
    batches = batches_of(plan.code, machine)
    models = [build_network(plan.network, model, machine) for model in merge.mixture.merged]
    reason = why_no_ensemble(plan.code, batches, models[0])
    if reason:
        return BesideEnsemble({}, (), Ensemble(reason=reason))
    fill(joined, source, {name: Window.whole(info) for name, info in held_infos(joined).items()})
    widen_model(joined, torch.float32)
    judge = judge_of(plan.code, machine)
    try:
        return BesideEnsemble(
            judge(joined.to(machine.device)),
            tuple(map(judge, models)),
            Ensemble(judge_ensemble(models, batches, weights=merge.mixture.weights.models)),
        )
    except UserCodeError as error:  # the result is written all the same
        return BesideEnsemble({}, (), Ensemble(reason=error.problems[0].what))


@dataclass(frozen=True)
class ProofInputs:
    """What the module builds, one of the models, and inputs of theirs; in float64, ready to run."""

    joined: nn.Module
    single: nn.Module
    examples: Sequence[Example]


def _built(plan: PreservePlan) -> ProofInputs:
    module = ModuleType(plan.module.path.stem)
    module.__file__ = str(plan.module.path.resolve())
    target = plan.merge.request.tracing.target or plan.network.subject.name
    with (
        users_code("the model"),
        folder_importable(import_folder(target)),
        torch.random.fork_rng(devices=[]),
    ):
        exec(compile(plan.text, module.__file__, "exec"), vars(module))
        joined: nn.Module = vars(module)["build"]()
        single = plan.network.subject.build()
        examples = plan.network.subject.examples(single)
    return ProofInputs(
        joined.double().eval(), single.double().eval(), tuple(map(widen_example, examples))
    )


def _stored_names(single: nn.Module, plan: PreservePlan) -> dict[str, str]:
    """Return under which names the checkpoints hold the tensors of the model, by its own names.

    Raises CheckpointError if they cut one into several.
    """
    infos, reference = held_infos(single), plan.merge.models[plan.merge.reference]
    stored = set(reference.names())
    names, parts = {}, []
    for name, window in plan.network.windows.items():
        if name in stored and window == Window.whole(infos[window.source]):
            names[window.source] = name
        elif name in stored:
            parts.append(name)
    if parts:
        raise CheckpointError(
            f"the checkpoints store {parts[0]!r} as a part of a larger tensor of the model",
            where=str(reference.path),
            hint="save the state dict of the model itself",
        )
    for alias, first in held_ties(single).items():
        known = names.get(alias) or names.get(first)
        names |= dict.fromkeys((alias, first), known) if known else {}
    return names


def _gathered(
    joined: nn.Module,
    names: Mapping[str, str],
    parents: Sequence[TensorSource],
    trunk: TensorSource,
) -> Gathered:
    """Return the tensors of a joined model: those of each parent, then of the trunk.

    What the checkpoints lack, as counts of batches in old ones, is as it was built.
    """
    held = InMemory(joined.state_dict())
    parts = {f"parents.{number}.": parent for number, parent in enumerate(parents)}
    places: dict[str, tuple[TensorSource, str]] = {}
    for name in held.names():
        prefix, source = next(
            (p for p in parts.items() if name.startswith(p[0])), ("trunk.", trunk)
        )
        inner = names.get(name.removeprefix(prefix))
        places[name] = (source, inner) if inner is not None else (held, name)
    return Gathered(places)


def _proved(plan: PreservePlan, inputs: ProofInputs, names: Mapping[str, str]) -> float:
    """Return how far a joined model of copies of the reference is from it.

    Raises UserCodeError if it is further than rounding.
    """
    joined, single = inputs.joined, inputs.single
    reference = plan.merge.models[plan.merge.reference]
    copies = _gathered(joined, names, [reference] * len(plan.merge.models), reference)
    fill(single, reference, plan.network.windows)
    fill(joined, copies, {name: Window.whole(info) for name, info in held_infos(joined).items()})
    difference = max(
        outputs_difference(outputs_of(single, e), outputs_of(joined, e)) for e in inputs.examples
    )
    if difference <= SAME_IN_FLOAT64:
        return difference
    raise UserCodeError(
        f"copies of {reference.path} joined at {plan.cut.cut_point.join!r} do not compute what it "
        "does",
        detail=f"the outputs differ by {difference:.2g} of their scale",
        hint="the model has to return the same for the same input: is there randomness in it?",
    )


def _output_info(info: TensorInfo, request: MergeRequest) -> TensorInfo:
    if request.output.dtype == "keep" or not info.dtype.is_floating_point:
        return info
    return replace(info, dtype=DTYPES[request.output.dtype])
