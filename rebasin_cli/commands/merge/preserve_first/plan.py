"""The plan of `rebasin merge --preserve-first`: which layers stay apart, and what is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.endings import file_ending, format_of, name_without_ending
from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.remote.remote_path import RemotePath
from rebasin_cli.commands.merge.checks import check_averages
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.commands.merge.plan import MergePlan, plan_merge
from rebasin_cli.commands.merge.preserve_first.cut import Cut, plan_cut
from rebasin_cli.commands.merge.preserve_first.joined_source import Recipe, joined_source
from rebasin_cli.errors import UsageError
from rebasin_cli.files.output_names import output_file
from rebasin_cli.files.places import OutputPlace, files_of, plan_place
from rebasin_cli.files.targets import FORMATS, Target, describe_target, plan_format
from rebasin_cli.network.network import Network, UserCode, plan_network, plan_user_code


@dataclass(frozen=True)
class PreservePlan:
    """All that `run_preserve` needs.

    merge: of the models, to one in the form of the class. code: what judges the models and the
    result, None without data. text: the module that runs the result.
    target, module: where the two go.
    """

    merge: MergePlan
    network: Network
    code: UserCode | None
    cut: Cut
    text: str
    target: Target
    module: OutputPlace

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            **self.merge.describe(),
            "outputs": [describe_target(self.target)],
            "module": str(self.module.path),
            "join": self.cut.cut_point.join,
            "kept": list(self.cut.kept),
            "layers": len(self.cut.layers),
            "cost": self.cut.cost(len(self.merge.models)),
        }


def plan_preserve(request: MergeRequest) -> PreservePlan:
    """Return what merging all but the first layers will do; the model is run, with random weights.

    Which layers: see `plan_cut`. Raises UsageError as `plan_merge` does, and
    without a model.
    """
    if request.tracing.target is None:
        raise UsageError(
            "--preserve-first needs the class of the models", hint="--model file.py:Class"
        )
    check_averages(request, "--preserve-first")
    out = _out(request.models[0], request) if request.models else Path()
    merge = plan_merge(_merging(request, out))
    network = plan_network(merge.models[merge.reference], request.selection, request.tracing)
    cut = plan_cut(network.subject, request.preserve_first or "")
    places = _places(merge, request, out)
    return PreservePlan(
        merge=merge,
        network=network,
        code=_code(merge, request),
        cut=cut,
        text=joined_source(_recipe(merge, request, cut, places)),
        module=places[0],
        target=places[1],
    )


def _code(merge: MergePlan, request: MergeRequest) -> UserCode | None:
    if request.data.data is None:
        return None
    first = merge.models[merge.reference]
    return plan_user_code(first, request.selection, request.tracing, request.data, fed=True)


def _merging(request: MergeRequest, out: Path) -> MergeRequest:
    """Return what says how to merge: --spec may say another way to align than tracing the model."""
    whole = replace(request, tracing=request.tracing.unless(request.selection.spec))
    if request.output.names_folder:
        return whole  # in a folder that is to be made the plan of a merge chooses the same name
    return replace(whole, output=replace(request.output, out=str(out), format=None))


def _out(first: Path, request: MergeRequest) -> Path:
    """Return where the checkpoint goes: one file, made like the first model."""
    known = file_ending(first) if format_of(first) else ".safetensors"
    out = output_file(request.output, "merged", FORMATS.get(request.output.format or "", known))
    if isinstance(out, RemotePath):
        raise UsageError(
            f"{out}: --preserve-first writes a module, which is tried where it lies",
            hint="name a file of this machine with -o",
        )
    plan_format(request.output, out)  # refuses names that contradict one another
    return out


def _places(merge: MergePlan, request: MergeRequest, out: Path) -> tuple[OutputPlace, Target]:
    """Return where the module goes, and the checkpoint beside it: both, or none."""
    mine = [file for model in merge.models for file in files_of(model)]
    create = request.output.names_folder
    source = out.with_name(f"{name_without_ending(out)}.py")
    module = plan_place(source, request.output, others=mine, create=create)
    place = plan_place(out, request.output, own=mine, create=create)
    skip = module.skip or place.skip
    layout = Layout(format_of(out) or "safetensors")
    return replace(module, skip=skip), Target(replace(place, skip=skip), layout)


def _recipe(
    merge: MergePlan, request: MergeRequest, cut: Cut, places: tuple[OutputPlace, Target]
) -> Recipe:
    total = sum(merge.mixture.weights.models)
    return Recipe(
        target=request.tracing.target or "",
        arguments=request.tracing.arguments,
        file=places[0].path,
        checkpoint=places[1].path.name,
        parents=[model.path.name for model in merge.models],
        join=cut.cut_point.join,
        kept=cut.cut_point.kept,
        merged=cut.cut_point.merged,
        weights=[weight / total for weight in merge.mixture.weights.models],
    )
