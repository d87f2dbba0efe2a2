"""The parents of a merge, each with its units in the order that they were merged in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.errors import UsageError
from rebasin_cli.files.output_names import output_paths
from rebasin_cli.files.part_sources import finite_model, moved_parts
from rebasin_cli.files.targets import Target, plan_target
from rebasin_cli.files.write import Result, write_model
from rebasin_cli.merging.overlap import Overlap
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.tensors.blocks import BoundTensor


def plan_parents(
    models: Sequence[Checkpoint], overlaps: Sequence[Overlap], request: MergeRequest
) -> tuple[Target, ...]:
    """Return where the parents go, if they are to be written: NAME.aligned.EXT in one folder.

    Raises UsageError where one is of other shapes, and as `plan_target` does.
    """
    folder = request.save_parents
    if folder is None:
        return ()
    check_alike(overlaps, "--save-parents")
    output = replace(request.output, out=f"{folder}/", card=None, in_place=False)
    paths = output_paths(models, output, word="aligned")
    inputs = [file for model in models for file in model.files]
    return tuple(
        plan_target(
            path,
            model,
            request.selection,
            output,
            own=[model],
            others=inputs,
            create=True,
        )
        for path, model in zip(paths, models, strict=True)
    )


def check_alike(overlaps: Sequence[Overlap], option: str) -> None:
    """Raise UsageError for models that only have a part in common."""
    if any(overlaps):
        raise UsageError(
            f"{option} needs models of the same shapes", hint="leave out --common, or the option"
        )


def save_parent(
    model: Checkpoint,
    target: Target,
    order: tuple[Sequence[BoundTensor], Permutations],
    request: MergeRequest,
    facts: Mapping[str, str],
) -> None:
    """Write one parent in an order of its units, in its own form; facts: where it comes from."""
    if target.place.skip:
        return
    source = Permuted(finite_model(model, request.selection), *order)
    output = replace(request.output, card=None)
    result = Result(source, model, facts, moved_parts(model, *order))
    write_model(result, target, request.selection, output)
